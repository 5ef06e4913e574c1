use proptest::prelude::*;

use super::*;

fn page(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn frame(encoder: &mut Encoder) -> Vec<u8> {
    let mut frame = Vec::new();
    encoder.finish(&mut frame, true).unwrap();
    frame
}

/// A frame with a right proof over any body.
fn forged(raw: &[u8], entries: &[u8], number: u32) -> Vec<u8> {
    let entries = [entries, &number.to_le_bytes()].concat();
    let hashes: Vec<u8> = raw.chunks(PAGE_BYTES).flat_map(|page| *blake3::hash(page).as_bytes()).collect();
    let mut frame = [&[0; HEAD], raw, &entries].concat();
    Packer::new().unwrap().pack(&mut frame, &proof(&entries, &hashes), false).unwrap();
    frame
}

fn entry(kind: u8, pid: i32, address: u64, pages: u32) -> Vec<u8> {
    [&[kind][..], &pid.to_le_bytes(), &address.to_le_bytes(), &pages.to_le_bytes()].concat()
}

fn read(mut frame: &[u8]) -> Result<Vec<Entry>, WireError> {
    let mut reader = Reader::new();
    reader.read(&mut frame)?;
    Ok(reader.entries)
}

#[test]
fn pages_arrive_as_they_were_sent_in_few_entries() {
    let (mut encoder, mut reader) = (Encoder::new().unwrap(), Reader::new());
    encoder.pages(1, 0x1000, &[page(1), page(2), vec![0; 2 * PAGE_BYTES]].concat());
    encoder.pages(2, 0x8000, &[page(1), page(2), page(3)].concat());
    encoder.void(1, &(0x10_0000..0x10_0000 + 5000 * PAGE));
    let first = frame(&mut encoder);
    reader.read(&mut &first[..]).unwrap();
    let expected = [
        Entry::Raw((1, 0x1000), 0..8192),
        Entry::Zero((1, 0x3000), 2),
        Entry::Repeat((2, 0x8000), 2, (1, 0x1000)),
        Entry::Raw((2, 0xa000), 8192..12288),
        Entry::Void((1, 0x10_0000), 4096),
    ];
    assert_eq!(reader.entries, expected);
    assert_eq!(reader.body()[..12288], [page(1), page(2), page(3)].concat());

    encoder.pages(2, 0xa000, &page(3));
    assert!(encoder.is_empty(), "it was written with what it held");
    encoder.pages(1, 0x1000, &page(4));
    encoder.pages(3, 0x1000, &[page(1), page(2)].concat());
    assert!(!reader.settled);
    encoder.settled();
    encoder.end();
    reader.read(&mut &frame(&mut encoder)[..]).unwrap();
    let kinds: Vec<_> = reader.entries.iter().map(std::mem::discriminant).collect();
    let raw = std::mem::discriminant(&Entry::Raw((0, 0), 0..0));
    assert_eq!(kinds, [raw, raw, std::mem::discriminant(&Entry::Repeat((0, 0), 0, (0, 0)))], "nobody has page 1 now");
    assert!(reader.settled && reader.ended);
    assert_eq!(reader.transcript(), encoder.transcript());
}

#[test]
fn what_compresses_travels_small() {
    let mut encoder = Encoder::new().unwrap();
    for number in 0..8_u8 {
        encoder.pages(1, u64::from(number) * PAGE, &[number + 1; PAGE_BYTES]);
    }
    assert!(frame(&mut encoder).len() < 1000);
    let mut plain = Vec::new();
    encoder.pages(1, 0, &page(1));
    encoder.finish(&mut plain, false).unwrap();
    assert_eq!(plain.len(), HEAD + PAGE_BYTES + 17 + TRAILER);
}

#[test]
fn a_frame_has_no_more_than_it_may() {
    let mut encoder = Encoder::new().unwrap();
    let mut pages = 0;
    while encoder.room() > 0 {
        encoder.pages(1, pages * 2 * PAGE, &[page(pages % 40), vec![0; PAGE_BYTES]].concat());
        pages += 2;
        encoder.void(2, &(0..PAGE));
    }
    let mut stream = &frame(&mut encoder)[..];
    assert!(stream.len() <= HEAD + BODY_MAX);
    Reader::new().read(&mut stream).unwrap();
    assert!(stream.is_empty());
}

#[test]
fn what_is_malformed_is_refused_by_name() {
    let one = page(1);
    let many = bytes(BATCH_PAGES_MAX as u64 + 1);
    for (name, frame) in [
        ("pages that cannot be", forged(&[], &entry(2, 1, 0x1001, 1), 0)),
        ("pages that cannot be", forged(&[], &entry(2, 1, 0x1000, 0), 0)),
        ("pages that cannot be", forged(&[], &entry(4, 1, 0x1000, RUN_MAX + 1), 0)),
        ("pages that cannot be", forged(&[], &entry(2, 1, u64::MAX - PAGE + 1, 1), 0)),
        ("pages that cannot be", forged(&[], &[entry(3, 1, 0, 1), vec![7; 12]].concat(), 0)),
        ("an entry of an unknown kind", forged(&[], &entry(9, 1, 0x1000, 1), 0)),
        ("an entry that ends early", forged(&[], &entry(2, 1, 0x1000, 1)[..16], 0)),
        ("an entry that ends early", forged(&[], &entry(3, 1, 0x1000, 1), 0)),
        ("something after the end", forged(&[], &[5, 5], 0)),
        ("something after the end", forged(&one, &[5], 1)),
        ("other raw pages than the entries say", forged(&one, &entry(2, 1, 0x1000, 1), 1)),
        ("other raw pages than the entries say", forged(&one, &entry(1, 1, 0x1000, 2), 1)),
        ("other raw pages than the entries say", forged(&[], &entry(1, 1, 0x1000, 1), 0)),
        ("more raw pages than a frame has", forged(&one, &[], 2)),
        ("more raw pages than a frame has", forged(&vec![1; many], &[], 65)),
        ("more raw pages than a frame has", forged(&[], &[], u32::MAX)),
        ("more pages than a frame may speak of", forged(&[], &entry(2, 1, 0, RUN_MAX).repeat(5), 0)),
        ("a batch that is too large", [&[0][..], &[0xff; 8], &[0; 32]].concat()),
        ("a body of an unknown encoding", [&[2][..], &[0; 40]].concat()),
        ("a body without its end", [&[0; 9][..], blake3::hash(&[]).as_bytes()].concat()),
    ] {
        match read(&frame) {
            Err(WireError::Broken(said)) => assert_eq!(said, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_changed_byte_is_found_out() {
    let mut encoder = Encoder::new().unwrap();
    encoder.pages(1, 0x1000, &[page(1), page(2)].concat());
    let frame = frame(&mut encoder);
    for at in (0..frame.len()).step_by(97).chain(0..HEAD).chain(frame.len() - 21..frame.len()) {
        let mut damaged = frame.clone();
        damaged[at] ^= 4;
        assert!(read(&damaged).is_err(), "byte {at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), number in 0..3_u32) {
        let _ = read(&bytes);
        let _ = read(&forged(&[], &bytes, 0));
        let _ = read(&forged(&vec![1; PAGE_BYTES * number as usize], &bytes, number));
    }

    #[test]
    fn entries_of_any_numbers_are_bounded(
        all in prop::collection::vec((0..7_u8, any::<i32>(), 0..1_u64 << 45, 0..5000_u32), 0..40)
    ) {
        let entries: Vec<u8> = all
            .into_iter()
            .flat_map(|(kind, pid, page, pages)| entry(kind, pid, page * PAGE, pages))
            .collect();
        if let Ok(entries) = read(&forged(&[], &entries, 0)) {
            let pages = |entry: &Entry| match entry {
                Entry::Raw(_, range) => (range.len() / PAGE_BYTES) as u64,
                Entry::Zero(_, pages) | Entry::Repeat(_, pages, _) | Entry::Void(_, pages) => u64::from(*pages),
            };
            prop_assert!(entries.iter().map(pages).sum::<u64>() <= FRAME_PAGES_MAX);
        }
    }
}
