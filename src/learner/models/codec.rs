//! The byte form of models and of what nights hand on: little-endian numbers, every length checked before memory is taken.

use sha2::{Digest, Sha256};

use super::CodecError;

const SUM_BYTES: usize = 32;
/// Bytes before the content.
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 8 + SUM_BYTES;

/// Magic, format, length and SHA-256 of the content, content.
pub(crate) fn seal(magic: [u8; 8], format: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend(magic);
    bytes.extend(format.to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(content));
    bytes.extend(content);
    bytes
}

/// The content of what [`seal`] made, of at most `most` bytes: nothing else passes.
pub(crate) fn unseal(
    bytes: &[u8],
    magic: [u8; 8],
    format: u32,
    most: usize,
) -> Result<&[u8], CodecError> {
    let rest = bytes.strip_prefix(&magic).ok_or(CodecError::Magic)?;
    let (found, rest) = rest.split_first_chunk().ok_or(CodecError::Magic)?;
    let found = u32::from_le_bytes(*found);
    if found != format {
        return Err(CodecError::Format {
            found,
            known: format,
        });
    }
    let (want, rest) = rest.split_first_chunk().ok_or(CodecError::Magic)?;
    let (sum, content) = rest
        .split_first_chunk::<SUM_BYTES>()
        .ok_or(CodecError::Magic)?;
    let (want, got) = (u64::from_le_bytes(*want), content.len() as u64);
    if want != got || content.len() > most {
        return Err(CodecError::Length { want, got });
    }
    if Sha256::digest(content).as_slice() != sum {
        return Err(CodecError::Checksum);
    }
    Ok(content)
}

/// Appends values to a buffer. Equal values give equal bytes.
#[derive(Default)]
pub(crate) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn u16(&mut self, v: u16) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn f32(&mut self, v: f32) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn f64(&mut self, v: f64) {
        self.0.extend(v.to_le_bytes());
    }

    /// A length (at most 2^32 - 1, as every limit is far below) before the items themselves.
    pub fn len(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    pub fn f64s(&mut self, values: &[f64]) {
        self.len(values.len());
        values.iter().for_each(|&v| self.f64(v));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub fn str(&mut self, s: &str) {
        self.len(s.len());
        self.0.extend(s.as_bytes());
    }
}

/// Takes values off the front of a slice.
pub(crate) struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(CodecError::Malformed("ends early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A finite number.
    pub fn f32(&mut self) -> Result<f32, CodecError> {
        let v = f32::from_le_bytes(self.array()?);
        v.is_finite()
            .then_some(v)
            .ok_or(CodecError::Malformed("a number is not finite"))
    }

    /// A finite number.
    pub fn f64(&mut self) -> Result<f64, CodecError> {
        let v = f64::from_le_bytes(self.array()?);
        v.is_finite()
            .then_some(v)
            .ok_or(CodecError::Malformed("a number is not finite"))
    }

    /// A length of at most `limit` items, each of which takes at least `item_bytes` of what is left.
    pub fn len(&mut self, limit: usize, item_bytes: usize) -> Result<usize, CodecError> {
        let n = self.u32()? as usize;
        if n > limit || n.saturating_mul(item_bytes) > self.0.len() {
            return Err(CodecError::Malformed("a length is beyond its limit"));
        }
        Ok(n)
    }

    pub fn f64s(&mut self, limit: usize) -> Result<Vec<f64>, CodecError> {
        let n = self.len(limit, 8)?;
        (0..n).map(|_| self.f64()).collect()
    }

    /// As many bytes as were written, at most `limit`; what is left bounds them too.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], CodecError> {
        let n = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if n > limit {
            return Err(CodecError::Malformed("a length is beyond its limit"));
        }
        self.take(n)
    }

    pub fn str(&mut self, limit: usize) -> Result<String, CodecError> {
        let n = self.len(limit, 1)?;
        let text = std::str::from_utf8(self.take(n)?);
        Ok(text
            .map_err(|_| CodecError::Malformed("a name is not UTF-8"))?
            .to_owned())
    }
}
