//! Files that exist either completely or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is a directory with that name.
    #[error("cannot write `{path}`: it is a directory; name a file")]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is something that cannot be replaced, such as a pipe or a device.
    #[error("cannot write `{path}`: it is not a regular file; a pipe or a device cannot be replaced")]
    NotAFile {
        /// The pipe or device.
        path: PathBuf,
    },
    /// Its folder does not exist.
    #[error("cannot write `{path}`: there is no folder `{folder}`; create it first")]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// Its folder does not accept a file.
    #[error(
        "cannot write `{path}`: cannot create a file in `{folder}`: {reason}; \
         choose a folder that you may write to"
    )]
    Folder {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
        /// The operating system's error.
        reason: io::Error,
    },
    /// Writing failed. Partial output is removed, and an existing file is unchanged.
    #[error("cannot write `{path}`: {reason}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: io::Error,
    },
}

/// Refuses a path where no file can be written, before any work is done for it. Other problems show when it is written.
///
/// # Errors
///
/// If there is a directory, a pipe or a device with that name, or no folder for it.
pub fn check_place(path: &Path) -> Result<(), WriteError> {
    let path = path.to_owned();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Err(WriteError::Directory { path }),
        Ok(metadata) if !metadata.is_file() => Err(WriteError::NotAFile { path }),
        _ => match folder(&path) {
            folder if folder.is_dir() => Ok(()),
            folder => Err(WriteError::NoFolder { folder: folder.to_owned(), path }),
        },
    }
}

/// Writes a file through a temporary one in the same folder, which replaces it when all of it is on disk; after an error there is no file, or the
/// previous one. If `path` is a symbolic link, the file that it leads to is replaced.
///
/// # Errors
///
/// Those of `write`, and [`WriteError`] if no file can be written at the path.
pub fn write_whole<E: From<WriteError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    check_place(path)?;
    let failed = |reason| WriteError::Failed { path: path.to_owned(), reason };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // With the permissions of any new file; those of `tempfile_in` are private, and its errors name the temporary file.
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    let mut file =
        tempfile::Builder::new().prefix(".lstmc-").make_in(folder(&target), create).map_err(|reason| {
            WriteError::Folder { path: path.to_owned(), folder: folder(&target).to_owned(), reason }
        })?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|error| failed(error.error))?;
    Ok(())
}

/// [`write_whole`] of these bytes.
///
/// # Errors
///
/// If no file can be written at the path.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |reason| WriteError::Failed { path: path.to_owned(), reason };
    write_whole(path, |file| file.write_all(bytes).map_err(failed))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
