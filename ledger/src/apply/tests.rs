//! The table of records: what each does when its preconditions hold, and every way to break one.
//!
//! `refuses` asks mempool, proposer and validator, which must agree, and makes sure that a refused record leaves no trace.

mod bidding;
mod containers;
mod every_record;
mod evidence;
mod handoffs;
mod membership;
mod random;
mod receipts;
mod rotation;
mod time;

use godwit_protocol::Message;

use crate::refusal::Refusal;
use crate::testing::Mesh;

/// Each message, by its author, is refused as it should be.
fn refuses(mesh: &mut Mesh, cases: Vec<(u8, Message, Refusal)>) {
    for (by, message, refusal) in cases {
        let described = format!("{message:?} by site {by}");
        assert_eq!(mesh.refusal(by, message), refusal, "{described}");
    }
}
