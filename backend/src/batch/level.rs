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
    /// AVX-512 F, BW and DQ, and what `Avx2` has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// VNNI, and what `Avx512` has.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// Each has what those before it have.
const SETS: &[Set] = &[
    Set::Portable,
    #[cfg(target_arch = "aarch64")]
    Set::Neon,
    #[cfg(target_arch = "x86_64")]
    Set::Avx2,
    #[cfg(target_arch = "x86_64")]
    Set::Avx512,
    #[cfg(target_arch = "x86_64")]
    Set::Avx512Vnni,
];

impl Set {
    /// Whether the processor has what it adds to the one before.
    fn is_there(self) -> bool {
        match self {
            Set::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => true,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
        }
    }
}

impl Level {
    /// The plain twin.
    pub const PORTABLE: Level = Level(Set::Portable);

    /// The fastest that this processor has. The first call asks, and none allocates.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Level::each().last().unwrap_or(Level::PORTABLE))
    }

    /// Those that this processor has, slowest first.
    pub fn all() -> Vec<Level> {
        Level::each().collect()
    }

    fn each() -> impl Iterator<Item = Level> {
        SETS.iter().copied().take_while(|set| set.is_there()).map(Level)
    }

    pub(super) fn set(self) -> Set {
        self.0
    }
}
