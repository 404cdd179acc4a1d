//! The trace's records, for who writes and who reads them.
//!
//! Little-endian: kind u8, length of the name u16, length of the data u32, a number u64; then the
//! name, relative to the recorded directory, and the data.

/// What a record tells.
pub(crate) mod kind {
    /// A file was opened and made if it was missing; data is one byte, 1 where it was cut to nothing.
    pub(crate) const OPEN: u8 = 1;
    /// Data was written, at the offset that the number is.
    pub(crate) const WRITE: u8 = 2;
    /// The file has the length that the number is.
    pub(crate) const TRUNCATE: u8 = 3;
    /// It is called by the data now.
    pub(crate) const RENAME: u8 = 4;
    /// The name is gone.
    pub(crate) const UNLINK: u8 = 5;
    /// A directory was made.
    pub(crate) const MKDIR: u8 = 6;
    /// fsync or fdatasync of a file or directory began; the number is which.
    pub(crate) const SYNC_BEGUN: u8 = 7;
    /// That sync has succeeded.
    pub(crate) const SYNC_ENDED: u8 = 8;
    /// `sync_file_range`, which makes nothing durable.
    pub(crate) const SYNC_RANGE: u8 = 9;
}

/// Bytes before the name.
pub(crate) const HEADER: usize = 15;
