//! Static libraries: an object file in an archive with the symbol table that the target's linkers read.

use super::target::Target;
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use std::io::{Cursor, Result};
use target_lexicon::BinaryFormat;

/// An archive of one object file. The same input gives the same bytes: archive members have no dates and no owners.
pub fn archive(object: &[u8], name: &str, target: &Target) -> Result<Vec<u8>> {
    let kind = match target.format() {
        BinaryFormat::Macho => ArchiveKind::Darwin,
        BinaryFormat::Coff => ArchiveKind::Coff,
        _ => ArchiveKind::Gnu,
    };
    let members = [NewArchiveMember::new(object, &DEFAULT_OBJECT_READER, target.object(name))];
    let mut file = Cursor::new(vec![]);
    write_archive_to_stream(&mut file, &members, kind, false, Some(false))?;
    Ok(file.into_inner())
}
