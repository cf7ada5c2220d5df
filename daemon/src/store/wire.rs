//! Variable-length numbers, the bricks of a batch's body.
//!
//! Writes to a vector and reads from a slice; never panics and never reads beyond it. `body` and `batch` build on it.

/// The bytes end too early, or a number is longer than it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Appends seven bits a byte, lowest first; at most ten bytes.
pub(crate) fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number, small magnitudes short.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, zigzag(value));
}

/// Returns the number that interleaves signs: 0, -1, 1, -2 become 0, 1, 2, 3.
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Returns the signed number behind an interleaved one.
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A position in some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'b>(pub(crate) &'b [u8]);

impl<'b> Cursor<'b> {
    /// Takes the next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    /// Takes exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    /// Takes an unsigned number.
    pub(crate) fn unsigned(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.array::<1>()?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Takes a signed number.
    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        Ok(unzigzag(self.unsigned()?))
    }

    /// Takes a count of things that need at least one byte each, so that a short body cannot ask for much memory.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.unsigned()?;
        if count > self.0.len() as u64 { Err(Malformed) } else { Ok(count as usize) }
    }

    /// Tells whether all bytes were taken.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
