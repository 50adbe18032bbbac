//! Which vector instructions the processor has.

use std::sync::OnceLock;

/// A set of kernels. A value other than `Portable` is proof that the processor has its instructions: only this module makes them, after asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Level(Set);

/// What a [`Level`] stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Set {
    /// Plain Rust.
    Portable,
    /// NEON, which every 64-bit Arm has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F and BW, and what `Avx2` has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// VNNI, and what `Avx512` has.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Level {
    /// The plain twin.
    pub const PORTABLE: Level = Level(Set::Portable);

    /// The fastest that this processor has.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| *Level::all().last().unwrap_or(&Level::PORTABLE))
    }

    /// Those that this processor has, slowest first.
    pub fn all() -> Vec<Level> {
        let mut all = vec![Set::Portable];
        #[cfg(target_arch = "aarch64")]
        all.push(Set::Neon);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Set::Avx2);
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                all.push(Set::Avx512);
                if is_x86_feature_detected!("avx512vnni") {
                    all.push(Set::Avx512Vnni);
                }
            }
        }
        all.into_iter().map(Level).collect()
    }

    pub(super) fn set(self) -> Set {
        self.0
    }
}
