//! Several blocks in one body: each is its length in four bytes, little-endian, and its canonical bytes.

/// The blocks as one body.
#[must_use]
pub fn join(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::with_capacity(blocks.iter().map(|block| block.len() + 4).sum());
    for block in blocks {
        let length = u32::try_from(block.len()).expect("a block is far below 4 GiB");
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(block);
    }
    body
}

/// The blocks of a body; none if it breaks off.
#[must_use]
pub fn split(mut body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut blocks = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (block, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        blocks.push(block.to_vec());
        body = rest;
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_is_split_again_and_what_breaks_off_is_not() {
        let blocks = vec![vec![1, 2, 3], Vec::new(), vec![4; 300]];
        let body = join(&blocks);
        assert_eq!(split(&body), Some(blocks));
        assert_eq!(split(&[]), Some(Vec::new()));
        for end in [1, 3, 6, body.len() - 1] {
            assert_eq!(split(&body[..end]), None, "{end}");
        }
    }
}
