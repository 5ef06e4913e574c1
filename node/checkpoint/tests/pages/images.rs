//! CRIU's images as far as the page service reads them, written by hand.

/// A file of records: CRIU's common magic number, that of its kind, then each record behind its length.
pub fn image(magic: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = [0x5456_4319_u32.to_le_bytes(), magic.to_le_bytes()].concat();
    for record in records {
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
    }
    bytes
}

/// As protobuf writes numbers.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
