//! What pages travel in, in batches of the page service and of pre-copy: a body of bytes, compressed where it pays.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | encoding of the body: 0 plain, 1 zstd |
//! | 4 | length of the body as sent (u32) |
//! | 4 | length of the plain body (u32) |
//! | 32 | the proof: a BLAKE3 by which the reader checks the plain body |
//! | | the body |

use std::io::{self, Read};

use super::wire::{WireError, array, narrow};

/// Bytes before the body.
pub(crate) const HEAD: usize = 41;

/// Bodies that are sent plain after one that did not shrink, at most: memory that does not compress is not tried often.
const SKIPS_MAX: u32 = 64;

/// Completes frames; one for each connection.
pub(crate) struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    /// Takes turns with the frame that is given.
    spare: Vec<u8>,
    skip: u32,
    skips: u32,
}

impl Packer {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(1)?, spare: Vec::new(), skip: 0, skips: 0 })
    }

    /// Makes a frame of a plain body that stands behind [`HEAD`] bytes of room. Says whether compression was tried, which it
    /// is not after a body that did not shrink.
    ///
    /// # Errors
    /// When there is no memory to compress.
    pub fn pack(&mut self, frame: &mut Vec<u8>, proof: &blake3::Hash, compress: bool) -> io::Result<bool> {
        let plain = frame.len() - HEAD;
        let tried = compress && self.skip == 0;
        let packed = tried && self.compress(frame)?;
        self.skip = self.skip.saturating_sub(u32::from(compress && !tried));
        let sent = frame.len() - HEAD;
        frame[0] = u8::from(packed);
        frame[1..5].copy_from_slice(&narrow(sent as u64).to_le_bytes());
        frame[5..9].copy_from_slice(&narrow(plain as u64).to_le_bytes());
        frame[9..HEAD].copy_from_slice(proof.as_bytes());
        Ok(tried)
    }

    /// Compresses the body where it pays: where an eighth is saved.
    fn compress(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        let body = &frame[HEAD..];
        self.spare.resize(HEAD + zstd::zstd_safe::compress_bound(body.len()), 0);
        let length = self.compressor.compress_to_buffer(body, &mut self.spare[HEAD..])?;
        if length > body.len() - body.len() / 8 {
            self.skips = (self.skips * 2).clamp(1, SKIPS_MAX);
            self.skip = self.skips;
            return Ok(false);
        }
        self.skips = 0;
        self.spare.truncate(HEAD + length);
        std::mem::swap(frame, &mut self.spare);
        Ok(true)
    }
}

/// A frame as it came, its body plain and not checked yet.
pub(crate) struct Frame {
    pub head: [u8; HEAD],
    pub body: Vec<u8>,
    /// As it came over the wire.
    pub wire_bytes: u64,
}

impl Frame {
    /// Reads the next frame, its body at most `most` bytes long, sent or plain. `room` is used for it.
    pub fn read(stream: &mut impl Read, most: usize, room: Vec<u8>) -> Result<Self, WireError> {
        let head: [u8; HEAD] = array(stream)?;
        let length = |at: usize| {
            let length = u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
            if length > most { Err(WireError::Broken("a batch that is too large")) } else { Ok(length) }
        };
        let (sent, plain) = (length(1)?, length(5)?);
        let mut body = room;
        body.resize(sent, 0);
        stream.read_exact(&mut body)?;
        let body = match head[0] {
            0 if sent == plain => body,
            1 => zstd::bulk::decompress(&body, plain).map_err(|_| WireError::Damaged)?,
            _ => return Err(WireError::Broken("a body of an unknown encoding")),
        };
        if body.len() != plain {
            return Err(WireError::Damaged);
        }
        Ok(Self { head, body, wire_bytes: (HEAD + sent) as u64 })
    }

    /// Whether the sender's proof is this.
    pub fn proved_by(&self, proof: &blake3::Hash) -> bool {
        *proof == <[u8; 32]>::try_from(&self.head[9..]).unwrap_or_default()
    }
}
