//! What is valid is taken; what is nearly valid, or was found by fuzzing, breaks no promise.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use godwit_decoders::TARGETS;
use proptest::prelude::*;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

#[test]
fn what_sites_say_sign_and_keep_is_taken() {
    for target in TARGETS {
        let samples = (target.samples)();
        assert!(!samples.is_empty(), "{}", target.name);
        for (number, sample) in samples.iter().enumerate() {
            assert!((target.decoder)(sample), "{}: sample {number}", target.name);
        }
    }
}

/// `GODWIT_WRITE_SEEDS=DIR` writes the samples where a fuzzer begins with them.
#[test]
fn what_fuzzing_found_breaks_no_promise_any_more() -> Result<()> {
    for target in TARGETS {
        if let Some(folder) = std::env::var_os("GODWIT_WRITE_SEEDS").map(|all| Path::new(&all).join(target.name)) {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            for (number, sample) in (target.samples)().iter().enumerate() {
                fs::write(folder.join(format!("sample-{number}")), sample).context("write a sample")?;
            }
        }
        let Ok(found) = fs::read_dir(corpus(target.name)) else { continue };
        for file in found {
            let path = file.context("list what was found")?.path();
            (target.decoder)(&fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    Ok(())
}

/// A change to bytes: at a place, by its share of the length, another byte, one less or one more.
#[derive(Clone, Copy, Debug)]
enum Change {
    Put(u16, u8),
    Cut(u16),
    Add(u16, u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Change::Put(at, byte)),
        1 => any::<u16>().prop_map(Change::Cut),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Change::Add(at, byte)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    let place = |at: u16| usize::from(at) * bytes.len() / (usize::from(u16::MAX) + 1);
    match change {
        Change::Put(at, byte) => {
            let at = place(at);
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        Change::Cut(at) if !bytes.is_empty() => drop(bytes.remove(place(at))),
        Change::Cut(_) => {}
        Change::Add(at, byte) => bytes.insert(place(at), byte),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_nearly_valid_breaks_no_promise(
        target in 0..TARGETS.len(),
        sample: prop::sample::Index,
        changes in prop::collection::vec(change(), 1..4),
    ) {
        let samples = (TARGETS[target].samples)();
        let mut bytes = sample.get(&samples).clone();
        changes.into_iter().for_each(|change| apply(&mut bytes, change));
        (TARGETS[target].decoder)(&bytes);
    }
}
