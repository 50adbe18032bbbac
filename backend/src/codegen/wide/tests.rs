use super::*;
use crate::plan::Groups;
use cranelift_object::object::read::{Object as _, ObjectSection as _};
use cranelift_object::object::{self, SectionKind};
use lstmc_frontend::ir::PackedWidth;
use std::process::Command;

/// Every form of weights at every level.
fn all() -> Vec<(Wide, Integer)> {
    let mut all = vec![];
    for wide in [Wide::Avx2, Wide::AvxVnni, Wide::Avx512Vnni] {
        for width in PackedWidth::ALL {
            for (len, size) in [(200, 200), (3, 3), (200, 64), (130, 40), (32, 16)] {
                for scale in [Scale::F32, Scale::F16] {
                    let groups = Groups { len, size };
                    // Narrow codes have no sign; AVX2 takes no bytes without.
                    let signs: &[bool] = match (width, wide) {
                        (PackedWidth::Eight, Wide::Avx2) => &[true],
                        (PackedWidth::Eight, _) => &[false, true],
                        _ => &[false],
                    };
                    all.extend(signs.iter().map(|&signed| (wide, Integer { width, groups, scale, signed })));
                }
            }
        }
    }
    all
}

/// The bytes are those that an assembler makes of the text.
#[test]
fn encodings_are_an_assemblers() {
    if !cfg!(target_arch = "x86_64")
        || !Command::new("cc").arg("--version").output().is_ok_and(|o| o.status.success())
    {
        return;
    }
    let folder = std::env::temp_dir().join(format!("lstmc-wide-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (n, (wide, of)) in all().into_iter().enumerate() {
        let (bytes, text) = panels(wide, of);
        let [source, to] = ["s", "o"].map(|end| folder.join(format!("{n}.{end}")));
        std::fs::write(&source, format!(".intel_syntax noprefix\n{text}")).unwrap();
        assert!(Command::new("cc").arg("-c").arg(&source).arg("-o").arg(&to).status().unwrap().success());
        let file = std::fs::read(&to).unwrap();
        let file = object::File::parse(&*file).unwrap();
        let assembled = file.sections().find(|s| s.kind() == SectionKind::Text).unwrap();
        let assembled = assembled.data().unwrap();
        let differs = assembled.iter().zip(&bytes).position(|(a, b)| a != b);
        assert_eq!((assembled.len(), differs), (bytes.len(), None), "{wide:?}, {of:?}: {}", source.display());
    }
    std::fs::remove_dir_all(folder).unwrap();
}
