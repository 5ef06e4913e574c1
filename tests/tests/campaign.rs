//! A few rounds of the kill -9 campaign; `tests/campaign.sh` runs as many as one likes.

use std::process::Command;

use anyhow::{Result, ensure};
use godwit_tests::artifacts;

#[test]
fn validators_killed_at_random_moments_neither_fork_nor_lose_a_record() -> Result<()> {
    let said =
        artifacts::run(Command::new(env!("CARGO_BIN_EXE_godwit-campaign")).args(["--rounds", "4", "--seed", "1"]))?;
    ensure!(said.lines().last().is_some_and(|line| line.starts_with("campaign: OK")), "{said}");
    Ok(())
}
