//! The folder of a frozen container: what of it travels beside its memory.
//!
//! ```text
//! images/        CRIU's
//! ahead          which pages that were sent ahead are still what they were, if any were
//! layer.tar      the writable layer
//! volume-N.tar   the Nth volume
//! log/           what it has written: 0, and 1 from before that
//! frozen.json    written last: all the rest is there
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use godwit_checkpoint::pages::{MemoryStore, Store};
use godwit_checkpoint::precopy;
use godwit_protocol::ContainerId;
use serde::{Deserialize, Serialize};

use super::inspect::Container;
use crate::runtime::layer::{self, Form};
use crate::runtime::{Cause, Frozen};

/// CRIU's images.
pub(super) const IMAGES: &str = "images";
const AHEAD: &str = "ahead";
const LAYER: &str = "layer.tar";
const LOGS: &str = "log";
const COMPLETE: &str = "frozen.json";

/// What a frozen container says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub container: ContainerId,
    /// Where its volumes are mounted: `volume-N.tar` is the Nth's content.
    pub volumes: Vec<String>,
    /// Its standard streams at the source, as CRIU names them; none of a stateless container.
    pub stdio: Option<[String; 3]>,
    /// How it went.
    pub frozen: Frozen,
}

impl Mark {
    /// Completes a folder.
    pub fn write(&self, dir: &Path) -> Result<(), Cause> {
        let (path, beside) = (dir.join(COMPLETE), dir.join(format!("{COMPLETE}.new")));
        let json = serde_json::to_vec(self).map_err(|e| Cause::io("write", &path)(e.into()))?;
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(Cause::io("write", &path))
    }

    /// Of a complete folder of this container.
    pub fn read(dir: &Path, container: ContainerId) -> Result<Self, Cause> {
        let json = fs::read(dir.join(COMPLETE)).map_err(|_| Cause::Incomplete(dir.to_owned()))?;
        let mark: Option<Self> = serde_json::from_slice(&json).ok();
        mark.filter(|mark| mark.container == container).ok_or_else(|| Cause::Incomplete(dir.to_owned()))
    }
}

/// The folder, empty: without what an earlier attempt has left.
pub(super) fn begin(dir: &Path) -> Result<(), Cause> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Cause::io("clear", dir)(error)),
        _ => {}
    }
    let images = dir.join(IMAGES);
    fs::create_dir_all(&images).map_err(Cause::io("make", &images))
}

/// Which pages that were sent ahead are still what they were.
pub(super) fn tell_ahead(dir: &Path, told: &precopy::Final) -> Result<(), Cause> {
    let path = dir.join(AHEAD);
    fs::write(&path, told.encode()).map_err(Cause::io("write", &path))
}

/// Of those that were received ahead, the ones that are what the frozen container has; none if that cannot be told.
pub(super) fn keep_ahead(dir: &Path, received: Option<precopy::Receiver>) -> Box<dyn Store> {
    let kept = received.map(|received| {
        let path = dir.join(AHEAD);
        let told = fs::read(&path).map_err(Cause::io("read", &path))?;
        Ok::<_, Cause>(received.finish(&precopy::Final::decode(&told)?)?)
    });
    match kept {
        Some(Ok(arena)) => Box::new(arena),
        Some(Err(cause)) => {
            tracing::info!(%cause, "what was received ahead is of no use");
            Box::new(MemoryStore::default())
        }
        None => Box::new(MemoryStore::default()),
    }
}

/// Everything but memory into the folder. The container stands.
pub(super) fn collect(container: &Container, log: &Path, dir: &Path) -> Result<(), Cause> {
    pack(container.upper()?, &dir.join(LAYER), Form::Overlay)?;
    for (index, (_, volume)) in container.volumes.iter().enumerate() {
        pack(volume, &dir.join(volume_file(index)), Form::Plain)?;
    }
    take_logs(log, &dir.join(LOGS))
}

/// The folder's layer, volumes and logs into a prepared container, whose output goes to `output`.
pub(super) fn lay(dir: &Path, mark: &Mark, container: &Container, output: [File; 2]) -> Result<(), Cause> {
    unpack(&dir.join(LAYER), container.merged()?, Form::Mounted)?;
    for (index, mounted) in mark.volumes.iter().enumerate() {
        let volume = container.volumes.iter().find(|(at, _)| at == mounted);
        let (_, path) = volume.ok_or_else(|| Cause::Unsupported(format!("the image here has no volume {mounted}")))?;
        layer::clear(path)?;
        unpack(&dir.join(volume_file(index)), path, Form::Plain)?;
    }
    say_again(&dir.join(LOGS), output)
}

fn pack(tree: &Path, archive: &Path, form: Form) -> Result<(), Cause> {
    let file = File::create(archive).map_err(Cause::io("make", archive))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    layer::pack(tree, &mut writer, form)?;
    writer.flush().map_err(Cause::io("write", archive))
}

fn unpack(archive: &Path, tree: &Path, form: Form) -> Result<(), Cause> {
    let file = File::open(archive).map_err(Cause::io("open", archive))?;
    Ok(layer::unpack(BufReader::with_capacity(1 << 20, file), tree, form)?)
}

fn volume_file(index: usize) -> String {
    format!("volume-{index}.tar")
}

/// The log and the one before it.
fn take_logs(log: &Path, into: &Path) -> Result<(), Cause> {
    fs::create_dir_all(into).map_err(Cause::io("make", into))?;
    for (file, name) in [(log.to_owned(), "0"), (older(log), "1")] {
        if file.exists() {
            fs::copy(&file, into.join(name)).map_err(Cause::io("keep", &file))?;
        }
    }
    Ok(())
}

/// What a line of the engine's log says of one line of output.
#[derive(Deserialize)]
struct Logged {
    log: String,
    stream: String,
}

/// What was logged before is written once more, to where the container will write. The engine shows only as much of its log as
/// it has written itself, so that the file cannot be put in its place. What is no line of a log is left out.
fn say_again(from: &Path, [output, errors]: [File; 2]) -> Result<(), Cause> {
    let (mut output, mut errors) = (BufWriter::new(output), BufWriter::new(errors));
    for name in ["1", "0"] {
        let kept = from.join(name);
        if !kept.is_file() {
            continue;
        }
        let log = BufReader::new(File::open(&kept).map_err(Cause::io("open", &kept))?);
        for line in log.lines() {
            let line = line.map_err(Cause::io("read", &kept))?;
            let Ok(logged) = serde_json::from_str::<Logged>(&line) else { continue };
            let stream = if logged.stream == "stderr" { &mut errors } else { &mut output };
            stream.write_all(logged.log.as_bytes()).map_err(Cause::io("log again", &kept))?;
        }
    }
    output.flush().and_then(|()| errors.flush()).map_err(Cause::io("log again", from))
}

/// The engine appends to its name when it begins a new one.
fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_protocol::Millis;

    fn mark() -> Mark {
        let frozen = Frozen { stop_ms: Millis(1), copy_ms: Millis(2) };
        Mark { container: ContainerId([1; 16]), volumes: vec!["/data".into()], stdio: None, frozen }
    }

    #[test]
    fn a_mark_is_read_back_for_its_own_container_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Mark::read(dir.path(), mark().container), Err(Cause::Incomplete(_))));
        mark().write(dir.path()).unwrap();
        assert_eq!(Mark::read(dir.path(), mark().container).unwrap(), mark());
        assert!(matches!(Mark::read(dir.path(), ContainerId([2; 16])), Err(Cause::Incomplete(_))));
    }

    #[test]
    fn a_new_attempt_begins_without_what_the_last_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let frozen = dir.path().join("frozen");
        for _ in 0..2 {
            begin(&frozen).unwrap();
            let names: Vec<_> = fs::read_dir(&frozen).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, [IMAGES]);
            fs::write(frozen.join(IMAGES).join("old"), "").unwrap();
            mark().write(&frozen).unwrap();
        }
    }

    #[test]
    fn what_was_logged_is_said_again_in_its_order_and_by_its_stream() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a-json.log");
        let line =
            |text: &str, stream: &str| format!("{}\n", serde_json::json!({"log": text, "stream": stream, "time": "t"}));
        fs::write(older(&log), line("one\n", "stdout")).unwrap();
        fs::write(&log, line("two\n", "stdout") + &line("no!\n", "stderr") + "{\"log\":\"ha").unwrap();
        take_logs(&log, &dir.path().join(LOGS)).unwrap();
        let (output, errors) = (dir.path().join("output"), dir.path().join("errors"));
        say_again(&dir.path().join(LOGS), [&output, &errors].map(|path| File::create(path).unwrap())).unwrap();
        assert_eq!(fs::read_to_string(output).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(errors).unwrap(), "no!\n");
    }
}
