//! The widths of codes: one table, which the store, the text form, export, packing, kernels and passes read.
//!
//! ```text
//!   name ─▶ text form, store (`int4`, `int4+rans`)        bits ─▶ range, bytes in the store
//!   packed ─▶ panels of kernels                           exported ─▶ tensor type in ONNX
//! ```
//!
//! A format is a row below. A kernel knows [`PackedWidth`]s only, so a format with an existing panel width needs no new kernel. To add a
//! panel width, add a variant: every place that must unpack it is then a compile error.

use std::fmt;
use std::ops::RangeInclusive;

/// Bits per code in the panels of kernels. Narrower codes are sign-extended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PackedWidth {
    /// Four codes in a byte.
    Two,
    /// Two codes in a byte.
    Four,
    /// A code in a byte.
    Eight,
}

impl PackedWidth {
    /// Every width, from narrow to wide.
    pub const ALL: [PackedWidth; 3] = [PackedWidth::Two, PackedWidth::Four, PackedWidth::Eight];

    /// The number of bits.
    pub const fn bits(self) -> usize {
        match self {
            PackedWidth::Two => 2,
            PackedWidth::Four => 4,
            PackedWidth::Eight => 8,
        }
    }

    /// Codes per byte.
    pub const fn per_byte(self) -> usize {
        8 / self.bits()
    }

    /// The offset that makes every code non-negative.
    pub const fn offset(self) -> u8 {
        1 << (self.bits() - 1)
    }
}

/// `int4`.
impl fmt::Display for PackedWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "int{}", self.bits())
    }
}

/// The tensor type that holds codes in ONNX: the narrowest one that holds them all and that `DequantizeLinear` takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExportedType {
    /// `INT4`, since opset 21.
    Int4,
    /// `INT8`.
    Int8,
}

impl ExportedType {
    /// `int4`, as ONNX spells it.
    pub const fn name(self) -> &'static str {
        match self {
            ExportedType::Int4 => "int4",
            ExportedType::Int8 => "int8",
        }
    }
}

/// The properties of a format.
struct Row {
    name: &'static str,
    coded: &'static str,
    context: &'static str,
    bits: u8,
    packed: PackedWidth,
    exported: ExportedType,
    fine: bool,
}

macro_rules! formats {
    ($(
        $(#[$doc:meta])*
        $format:ident: $name:literal, bits $bits:literal, packed $packed:ident, exported $exported:ident, fine $fine:literal;
    )*) => {
        /// How codes are stored: a row of the table. Signed integers with a given number of bits.
        ///
        /// ```
        /// use lstmc_frontend::ir::CodeFormat;
        /// let format = CodeFormat::of_bits(4).unwrap();
        /// assert_eq!((format.name(), format.range()), ("int4", -8..=7));
        /// assert_eq!(CodeFormat::of_bits(7), None);
        /// ```
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum CodeFormat {
            $($(#[$doc])* $format,)*
        }

        impl CodeFormat {
            /// Every format, from narrow to wide.
            pub const ALL: [CodeFormat; [$($bits),*].len()] = [$(CodeFormat::$format),*];

            const fn row(self) -> &'static Row {
                match self {
                    $(CodeFormat::$format => &Row {
                        name: $name,
                        coded: concat!($name, "+rans"),
                        context: concat!($name, "+context"),
                        bits: $bits,
                        packed: PackedWidth::$packed,
                        exported: ExportedType::$exported,
                        fine: $fine,
                    },)*
                }
            }
        }
    };
}

formats! {
    /// -2 to 1.
    Int2: "int2", bits 2, packed Two, exported Int4, fine false;
    /// -4 to 3.
    Int3: "int3", bits 3, packed Four, exported Int4, fine false;
    /// -8 to 7.
    Int4: "int4", bits 4, packed Four, exported Int4, fine false;
    /// -16 to 15.
    Int5: "int5", bits 5, packed Eight, exported Int8, fine false;
    /// -32 to 31.
    Int6: "int6", bits 6, packed Eight, exported Int8, fine false;
    /// -128 to 127.
    Int8: "int8", bits 8, packed Eight, exported Int8, fine true;
}

impl CodeFormat {
    /// The name in the text form and in the store: `int4`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The name of entropy-coded codes in the store: `int4+rans`.
    pub const fn coded_name(self) -> &'static str {
        self.row().coded
    }

    /// The name of codes that are entropy-coded in context in the store: `int4+context`.
    pub const fn context_name(self) -> &'static str {
        self.row().context
    }

    /// The format with this name, as [`CodeFormat::name`] spells it.
    pub fn from_name(name: &str) -> Option<CodeFormat> {
        CodeFormat::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Bits per code, also in the store.
    pub const fn bits(self) -> u8 {
        self.row().bits
    }

    /// The format with this number of bits per code.
    pub fn of_bits(bits: u8) -> Option<CodeFormat> {
        CodeFormat::ALL.into_iter().find(|f| f.bits() == bits)
    }

    /// The widths, for messages and help: `8, 4, 3 or 2`.
    pub fn widths() -> String {
        let all: Vec<String> = CodeFormat::ALL.iter().rev().map(|f| f.bits().to_string()).collect();
        match all.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => all.concat(),
        }
    }

    /// The codes: `-2^(bits - 1)` to `2^(bits - 1) - 1`. Zero points are in this range too.
    pub const fn range(self) -> RangeInclusive<i8> {
        let half = 1i16 << (self.bits() - 1);
        (-half) as i8..=(half - 1) as i8
    }

    /// How kernels pack them.
    pub const fn packed(self) -> PackedWidth {
        self.row().packed
    }

    /// How ONNX stores them.
    pub const fn exported(self) -> ExportedType {
        self.row().exported
    }

    /// Whether steps are so fine that rounding to the nearest code loses nothing that calibration, clipping or signed scales could recover.
    pub const fn is_fine(self) -> bool {
        self.row().fine
    }
}

/// As [`CodeFormat::name`].
impl fmt::Display for CodeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The invariants that readers of the table rely on.
    #[test]
    fn rows_are_in_order_and_fit() {
        assert!(CodeFormat::ALL.is_sorted_by_key(|f| f.bits()));
        for format in CodeFormat::ALL {
            assert_eq!(format.name(), format!("int{}", format.bits()));
            assert_eq!(CodeFormat::from_name(format.name()), Some(format));
            assert_eq!(CodeFormat::of_bits(format.bits()), Some(format));
            assert!(usize::from(format.bits()) <= format.packed().bits());
            let fits = match format.exported() {
                ExportedType::Int4 => format.bits() <= 4,
                ExportedType::Int8 => format.bits() <= 8,
            };
            assert!(fits, "{format} in {}", format.exported().name());
        }
        assert_eq!(CodeFormat::of_bits(1), None);
        assert_eq!(CodeFormat::of_bits(9), None);
    }
}
