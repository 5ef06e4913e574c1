//! A site's disk: what is synced survives a crash, the rest of the write-ahead log as far as chance has it.

use godwit_ledger::block::Height;
use godwit_ledger::frames::{self, Framing, Unreadable};
use godwit_ledger::wal::KIND;
use godwit_protocol::Time;
use godwit_protocol::handoff::Promise;

use crate::plan::Dice;

/// What a torn write leaves behind its last byte: a sector of something else.
const SECTOR: usize = 512;

/// What survives the process.
#[derive(Debug, Default)]
pub struct Disk {
    /// The last block committed here.
    pub height: Height,
    /// The write-ahead log, as far as it is synced.
    pub log: Vec<Vec<u8>>,
    /// The rest of it: a crash may lose it from any entry on, or from any byte.
    pub unsynced: Vec<Vec<u8>>,
    /// When its operator had its ledger fetched anew, by its clock.
    pub forgot: Option<Time>,
    /// The promises; each is synced before anything follows from it.
    pub journal: Vec<Promise>,
}

impl Disk {
    /// A crash between two writes: from some entry on nothing is left.
    pub fn cut(&mut self, dice: &mut Dice) {
        let kept = dice.index(self.unsynced.len() + 1);
        self.log.extend(self.unsynced.drain(..).take(kept));
    }

    /// A crash in the middle of a write: the file ends at some byte, or goes on with zeros or remains of something else. True
    /// if a write was torn. What is left is read as the log's own code reads it.
    ///
    /// # Errors
    /// [`Unreadable`]: what was synced would be lost.
    pub fn tear(&mut self, dice: &mut Dice) -> Result<bool, Unreadable> {
        let framing = Framing::new(KIND, dice.bytes());
        let frame = |entry: &Vec<u8>| framing.frame(entry).expect("it was written");
        let mut file = framing.header();
        file.extend(self.log.iter().flat_map(frame));
        let synced = file.len();
        file.extend(self.unsynced.drain(..).collect::<Vec<_>>().iter().flat_map(frame));
        let full = file.len();
        file.truncate(synced + dice.index(full - synced + 1));
        match dice.index(3) {
            0 => file.resize(full, 0),
            1 => file.extend(dice.bytes::<SECTOR>()),
            _ => {}
        }
        let frames = frames::read(KIND, &file)?;
        let torn = frames.end < file.len();
        self.log = frames.entries.into_iter().map(|entry| file[entry].to_vec()).collect();
        Ok(torn)
    }

    /// The ledger is damaged, and fetched anew. The journal is another file.
    pub fn rebuild(&mut self, now: Time) {
        self.forgot = self.forgot.max(Some(now));
        self.height = Height(0);
        self.empty_log();
    }

    /// The log is of a height that is over.
    pub fn empty_log(&mut self) {
        self.log.clear();
        self.unsynced.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_torn_what_was_synced_is_there_and_nothing_that_was_never_written() {
        let mut torn = 0;
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let entry = |n: u8| vec![n; 30];
            let mut disk =
                Disk { log: vec![entry(1), entry(2)], unsynced: vec![entry(3), entry(4)], ..Disk::default() };
            torn += u32::from(disk.tear(&mut dice).expect("what was synced is whole"));
            let all = [entry(1), entry(2), entry(3), entry(4)];
            assert!(disk.log.len() >= 2 && all.starts_with(&disk.log), "{:?}", disk.log);
            assert_eq!(disk.unsynced, Vec::<Vec<u8>>::new());
        }
        assert!(torn > 100, "{torn}");
    }
}
