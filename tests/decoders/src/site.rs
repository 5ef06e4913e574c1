//! What is read by the rest of a site.

use std::fs;

use godwit::api::view::Deploy;
use godwit::chunks::wire::{Answer, Request};
use godwit::runtime::Spec;
use godwit::runtime::layer::{Form, unpack};
use godwit::{api, genesis as file};
use godwit_ledger::state::State;
use godwit_protocol::capacity::Capacity;
use godwit_protocol::manifest::Manifest;
use godwit_protocol::membership::{Membership, Proposal};
use godwit_protocol::report::Report;
use godwit_protocol::word::Word;
use godwit_protocol::{Signed, decode};
use libp2p::bytes::Bytes;

use crate::canonical;
use crate::mesh::MESH;

/// A site's capacity or a client's report.
pub fn gossip(bytes: &[u8]) -> bool {
    let mesh = MESH.genesis().mesh();
    let capacity = canonical::<Signed<Capacity>>(bytes).map(|capacity| capacity.verify(&mesh).is_ok());
    let report = canonical::<Signed<Report>>(bytes).map(|report| report.verify(&mesh).is_ok());
    capacity.or(report).is_some()
}

/// A word of a site about a handoff.
pub fn word(bytes: &[u8]) -> bool {
    let Some(word) = canonical::<Word>(bytes) else { return false };
    let mesh = MESH.genesis().mesh();
    match word {
        Word::Yield(signed) => drop(signed.verify(&mesh)),
        Word::Report(signed) => drop(signed.verify(&mesh)),
        Word::ImageWanted { .. } | Word::Preparing { .. } => {}
    }
    true
}

/// What travels on a pull's stream, either way: a manifest that is taken touches nothing outside of its folder.
pub fn transfer(bytes: &[u8]) -> bool {
    let asked = canonical::<Request>(bytes).is_some();
    let Ok(answer) = Answer::decode(Bytes::copy_from_slice(bytes)) else { return asked };
    assert_eq!(answer.encode(), bytes, "one answer, one form");
    let Answer::Manifest(manifest) = answer else { return true };
    let Ok(manifest) = decode::<Manifest>(&manifest) else { return asked };
    manifest.root().expect("what was decoded can be encoded");
    let _ = manifest.bytes();
    if manifest.check().is_err() {
        return asked;
    }
    assert!(manifest.files.iter().all(|file| !file.path.as_str().starts_with('/')));
    true
}

/// An archive of a writable layer or a volume: nothing is made outside of its root.
pub fn layer(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("root");
    let mut taken = false;
    for form in [Form::Overlay, Form::Plain] {
        fs::create_dir(&root).expect("a root");
        taken |= unpack(bytes, &root, form).is_ok();
        let beside = fs::read_dir(folder.path()).expect("the folder").count();
        assert_eq!(beside, 1, "nothing beside the root");
        fs::remove_dir_all(&root).expect("the root goes");
    }
    taken
}

/// A genesis file.
pub fn genesis(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(genesis) = file::parse(text) else { return false };
    if genesis.check().is_err() {
        return false;
    }
    let again = file::parse(&file::to_toml(&genesis)).expect("what was written is read");
    assert_eq!(again.mesh(), genesis.mesh(), "one mesh, whatever file founds it");
    let _ = State::genesis(&genesis);
    true
}

/// The body of a request, or of an answer with blocks.
pub fn request(bytes: &[u8]) -> bool {
    let blocks = api::raw::split(bytes).inspect(|blocks| assert_eq!(api::raw::join(blocks), bytes));
    let deploy = serde_json::from_slice::<Deploy>(bytes);
    let spec = std::str::from_utf8(bytes).ok().and_then(|json| Spec::from_json(json).ok());
    let membership = serde_json::from_slice::<Membership>(bytes);
    let proposal = serde_json::from_slice::<Proposal>(bytes);
    if let Some(spec) = &spec {
        let _ = spec.deploy.check();
    }
    blocks.is_some() || deploy.is_ok() || spec.is_some() || membership.is_ok() || proposal.is_ok()
}
