//! Packet memory, read in place: a frame in XDP, and of an skb what lies in one piece.

use totoro_ebpf::logic;
use totoro_ebpf::packet::{MAX_OFFSET, Packet};

use super::greeting::{Piece, Wire};

/// Packet memory, read in place.
pub(super) struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    /// What a context's `data` and `data_end` are: in XDP all of a frame, of an skb what needs no call to be
    /// read, which is nearly always its headers, and perhaps nothing.
    #[inline(always)]
    pub(super) const fn new(data: usize, end: usize) -> Frame {
        Frame { data, end }
    }

    /// Its length, bytes.
    #[cfg(feature = "log")]
    pub(super) fn len(&self) -> usize {
        self.end - self.data
    }

    /// An integer, as it stands in memory.
    #[inline(always)]
    fn whole<T: Copy>(&self, at: usize) -> Option<T> {
        if at > MAX_OFFSET {
            return None;
        }
        let start = self.data + at;
        if start + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bounds were just compared with the packet's end, as the verifier wants it. What is
        // in a packet is not aligned, and the kernel takes such reads of it wherever the processor does
        // (x86-64, arm64). A plain one would be made byte by byte; a volatile one is one instruction.
        Some(unsafe { core::ptr::read_volatile(start as *const T) })
    }

    #[inline(always)]
    fn write<const N: usize>(&self, at: usize, bytes: &[u8; N]) -> Option<()> {
        if at > MAX_OFFSET {
            return None;
        }
        let start = self.data + at;
        if start + N > self.end {
            return None;
        }
        // SAFETY: the bounds were just compared with the packet's end, as the verifier wants it, and
        // XDP may write to the packet.
        unsafe { *(start as *mut [u8; N]) = *bytes };
        Some(())
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        let start = self.data + at;
        if start + N > self.end {
            return None;
        }
        // SAFETY: the bounds were just compared with the packet's end, as the verifier wants it.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn half(&self, at: usize) -> Option<u16> {
        self.whole(at).map(u16::from_be)
    }

    #[inline(always)]
    fn halves(&self, at: usize) -> Option<(u16, u16)> {
        let both = u32::from_be(self.whole(at)?);
        Some(((both >> 16) as u16, both as u16))
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        self.whole(at)
    }
}

impl Wire for Frame {
    #[inline(always)]
    fn replace(&self, at: usize, new: &Piece, sum: usize, diff: i64) -> Option<()> {
        let old: [u8; 2] = self.read(sum)?;
        let changed = logic::checksum::changed(old, diff as u32);
        for (nth, word) in new.iter().enumerate() {
            self.write(at + 4 * nth, &word.to_le_bytes())?;
        }
        self.write(sum, &changed)
    }
}
