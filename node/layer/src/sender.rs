//! The source's side of a session.

use std::io::{BufReader, BufWriter, Read, Write};

use crate::path::LayerPath;
use crate::scan::{Moment, Scanner};
use crate::tree::{Content, Tree};
use crate::wire::{CHANGES, FromSource, FromTarget, Place, SessionError, WANT_MAX, greet};

/// Room for a few chunks on their way.
const BUFFER: usize = 1 << 20;

/// Tells a target of trees and gives it the chunks it asks for.
pub struct Sender<R: Read, W: Write> {
    read: BufReader<R>,
    write: BufWriter<W>,
    /// What the target was told last.
    told: Option<Tree>,
}

/// What a round took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Entries that were new or changed, and names that went.
    pub changes: u64,
    /// Chunks that the target asked for.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that changed before they were sent; the next round has them.
    pub lacking: u64,
}

impl<R: Read, W: Write> Sender<R, W> {
    /// Opens a session. `known` are trees that earlier sessions told of, the last ones at least: if the target still has one of
    /// them, only what changed since is told.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn open(read: R, write: W, known: &[Tree]) -> Result<Self, SessionError> {
        let (mut read, mut write) = (BufReader::new(read), BufWriter::with_capacity(BUFFER, write));
        greet(&mut read, &mut write)?;
        let FromTarget::Have(have) = FromTarget::read(&mut read)? else {
            return Err(SessionError::Broken("a target begins with what it has"));
        };
        let told = known.iter().rev().find(|tree| tree.root() == have).cloned();
        Ok(Self { read, write, told })
    }

    /// Tells the target of a tree that `scanner` found at `moment`, and gives it what it lacks. After a round of
    /// [`Moment::Stopped`] the target has all of it.
    ///
    /// # Errors
    /// [`SessionError::Lost`]: open another session; in any other case it would end the same way.
    pub fn round(&mut self, scanner: &Scanner, tree: &Tree, moment: Moment) -> Result<Sent, SessionError> {
        let mut sent = Sent { changes: self.tell(tree, moment)?, ..Sent::default() };
        loop {
            match FromTarget::read(&mut self.read)? {
                FromTarget::Want(places) if places.len() <= WANT_MAX => {
                    for place in places {
                        sent.bytes += self.answer(scanner, tree, place, moment)?;
                        sent.chunks += 1;
                    }
                    self.write.flush()?;
                }
                FromTarget::Staged { lacking } if lacking == 0 || moment == Moment::Running => {
                    sent.lacking = lacking;
                    return Ok(sent);
                }
                _ => return Err(SessionError::Broken("a target says no such thing here")),
            }
        }
    }

    fn tell(&mut self, tree: &Tree, moment: Moment) -> Result<u64, SessionError> {
        // From here the target may have it, as far as we know.
        let base = self.told.replace(tree.clone());
        let last = moment == Moment::Stopped;
        FromSource::Round { on_yours: base.is_some(), last }.write(&mut self.write)?;
        let (gone, new) = tree.since(base.as_ref().unwrap_or(&Tree::default()));
        let changes = (gone.len() + new.len()) as u64;
        for gone in batches(gone, LayerPath::weight) {
            FromSource::Changes { gone, new: Vec::new() }.write(&mut self.write)?;
        }
        for new in batches(new, |entry| entry.weight()) {
            let new = new.iter().map(|entry| (**entry).clone()).collect();
            FromSource::Changes { gone: Vec::new(), new }.write(&mut self.write)?;
        }
        FromSource::End(tree.root()).write(&mut self.write)?;
        self.write.flush()?;
        Ok(changes)
    }

    /// The bytes that were sent.
    fn answer(&mut self, scanner: &Scanner, tree: &Tree, place: Place, moment: Moment) -> Result<u64, SessionError> {
        let (path, content, cell) = find(tree, place).ok_or(SessionError::Broken("the tree has no such chunk"))?;
        let data = match scanner.read(path, content, cell) {
            Ok(data) => Some(data),
            Err(_) if moment == Moment::Running => None,
            Err(error) => return Err(error.into()),
        };
        place.answer(&mut self.write, data.as_deref())?;
        Ok(data.map_or(0, |data| data.len() as u64))
    }
}

/// The chunk at a place: its file, and its index in it.
fn find(tree: &Tree, place: Place) -> Option<(&LayerPath, &Content, u64)> {
    let entry = tree.entries.get(place.entry as usize)?;
    let content = entry.kind.content()?;
    let cell = u64::from(place.chunk);
    content.parts(cell).next().map(|_| (&entry.path, content, cell))
}

/// Splits a list into batches of about [`CHANGES`] bytes.
fn batches<T>(items: Vec<T>, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let weight = weight(&item);
        match batches.last_mut() {
            Some(batch) if weight <= room => batch.push(item),
            _ => {
                batches.push(vec![item]);
                room = CHANGES;
            }
        }
        room = room.saturating_sub(weight);
    }
    batches
}
