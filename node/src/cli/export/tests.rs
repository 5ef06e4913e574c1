//! Each form holds the same rows.

use std::io::Write;
use std::sync::{Arc, Mutex};

use godwit_ledger::block::{Block, Committed};
use godwit_ledger::bundle::Bundle;
use godwit_protocol::bounded::List;
use godwit_protocol::encode;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::columns::Columns;
use super::rows::{COLUMNS, Flat, Lines, Sheet, Sink};

/// What was written, after the sink has gone.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Blocks of one record each, of the changes of the validators and of the record in a published proof.
fn blocks() -> Vec<Vec<u8>> {
    let bundle = Bundle::from_bytes(include_bytes!("../../../../tests/golden/valid.proof")).unwrap();
    let all = bundle.lineage.links.iter().cloned().chain([bundle.attested.clone()]);
    let block = all.map(|attested| {
        let block = Block { header: attested.header, records: List::first([attested.record]) };
        encode(&Committed { block, certificate: attested.certificate }).unwrap()
    });
    block.collect()
}

fn exported(make: impl FnOnce(Kept) -> Box<dyn Sink>, from: u64, to: u64) -> (u64, Vec<u8>) {
    let kept = Kept::default();
    let flat = Flat::new(from..=to, make(kept.clone()));
    let count = flat.write(&mut blocks().into_iter().map(Ok), &mut |_| ()).unwrap();
    let bytes = kept.0.lock().unwrap().clone();
    (count, bytes)
}

#[test]
fn all_forms_hold_the_same_rows() {
    let (count, bytes) = exported(|kept| Box::new(Lines::new(kept)), 1, u64::MAX);
    let lines: Vec<serde_json::Value> =
        std::str::from_utf8(&bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((count, lines.len()), (4, 4));
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["membership", "membership", "evidence", "register"]);
    assert!(lines[0]["message"].is_object() && lines[0]["container"].is_null() && lines[3]["container"].is_string());

    let (count, bytes) = exported(|kept| Box::new(Sheet::new(kept).unwrap()), 1, u64::MAX);
    let mut sheet = csv::Reader::from_reader(&bytes[..]);
    assert_eq!(sheet.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
    let rows: Vec<_> = sheet.records().map(|row| row.unwrap()).collect();
    assert_eq!((count, rows.len()), (4, 4));

    let (count, bytes) = exported(|kept| Box::new(Columns::new(kept).unwrap()), 1, u64::MAX);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let stored: Vec<_> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!((count, stored.len()), (4, 4));

    for (line, (row, stored)) in lines.iter().zip(rows.iter().zip(&stored)) {
        let stored: Vec<String> =
            stored.get_column_iter().map(|(_, field)| field.to_string().trim_matches('"').to_owned()).collect();
        for (at, name) in ["height", "index", "record", "author", "kind"].into_iter().enumerate() {
            let at = if at == 0 { 0 } else { at + 1 };
            let told = line[name].to_string();
            let told = told.trim_matches('"');
            assert_eq!((row[at].as_ref(), stored[at].as_str()), (told, told), "{name}");
        }
        let message: serde_json::Value = serde_json::from_str(&row[8]).unwrap();
        assert_eq!(message, line["message"]);
    }
}

#[test]
fn only_the_wanted_heights_are_written() {
    for (from, to, count) in [(1, 1, 1), (2, 9, 1), (3, 9, 0), (2, 10, 2), (13, u64::MAX, 0)] {
        let (written, bytes) = exported(|kept| Box::new(Lines::new(kept)), from, to);
        assert_eq!(written, count);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count() as u64, count);
    }
}
