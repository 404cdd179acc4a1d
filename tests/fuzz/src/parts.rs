//! Bytes taken apart into numbers and pieces, for targets whose inputs have a structure of ours.

/// What is left of an input. Where there is nothing left, all is zero and empty.
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.piece(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let piece = self.piece(8);
        bytes[..piece.len()].copy_from_slice(piece);
        u64::from_le_bytes(bytes)
    }

    /// At most so many bytes.
    pub(crate) fn piece(&mut self, length: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// A piece whose length is the next byte.
    pub(crate) fn short(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.piece(length)
    }
}
