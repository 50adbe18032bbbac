//! Every kernel that the machine has against products in f64, which the reference implementations must meet as well.

use crate::integer::scale_of;
use crate::level::Level;
use crate::product::{Product, Products};
use crate::share::Destination;
use crate::{
    Activations, CodePanels, CodeRows, Floats, Groups, Integer, PANEL, QUAD, Scale, Start, Term,
    f32_panels_len, quantize,
};
use lstmc_frontend::ir::PackedWidth;
use std::iter::once;

/// Miri takes a thousand times as long.
const SLOW: bool = cfg!(miri);

const DIMS: &[usize] = if SLOW { &[1, 3, 33] } else { &[1, 3, 31, 33, 257] };
const STEPS: &[usize] = if SLOW { &[1, 2, 3] } else { &[1, 2, 11, 12, 13, 25] };
/// 0 is the whole row.
const GROUPS: &[usize] = if SLOW { &[0, 4] } else { &[0, 4, 32, 40, 50] };
/// What lies between rows, and must stay.
const GAP: f32 = 1234.5;

/// A stream of numbers that repeats from run to run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn f32(&mut self) -> f32 {
        self.next(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum From {
    Zero,
    Bias,
    Accumulate,
}

const FROM: [From; 3] = [From::Zero, From::Bias, From::Accumulate];

/// Runs a product and checks all that it wrote: `want[t][o]` of sum and size, whose error may be `size * tolerance`.
fn check(
    what: &str,
    (steps, out): (usize, usize),
    from: From,
    want: &[(f64, f64)],
    tolerance: f64,
    run: impl FnOnce(&mut [f32], usize, Start<'_>),
) {
    let mut random = Random(7);
    let stride = out + 3;
    let bias = random.f32s(out);
    let before: Vec<f32> =
        (0..steps * stride).map(|i| if i % stride < out { random.f32() } else { GAP }).collect();
    let mut to = before.clone();
    let start = match from {
        From::Zero => Start::Zero,
        From::Bias => Start::Bias(&bias),
        From::Accumulate => Start::Accumulate,
    };
    run(&mut to, stride, start);
    for (i, (&have, &before)) in to.iter().zip(&before).enumerate() {
        let (t, o) = (i / stride, i % stride);
        if o >= out {
            assert_eq!(have, GAP, "{what}: wrote between rows");
            continue;
        }
        let start = match from {
            From::Zero => 0.0,
            From::Bias => f64::from(bias[o]),
            From::Accumulate => f64::from(before),
        };
        let (sum, size) = want[t * out + o];
        let error = (f64::from(have) - start - sum).abs();
        // One more rounding where the start is added.
        let bound = size * tolerance + (start.abs() + size) * 2f64.powi(-24) * f64::from(start != 0.0);
        assert!(error <= bound, "{what}, {from:?}: [{t}][{o}] is {have}, expected {}", start + sum);
    }
}

fn dense_panels(w: &[f32], out: usize, input: usize) -> Vec<f32> {
    let mut packed = vec![];
    for first in (0..out).step_by(PANEL) {
        for k in 0..input {
            packed.extend((first..first + PANEL).map(|o| if o < out { w[o * input + k] } else { 0.0 }));
        }
    }
    packed
}

fn one_thread() -> Products {
    Products::new(Level::best(), 1)
}

/// A code of an activation.
fn activation(random: &mut Random) -> i8 {
    (random.next(255) as i32 - 127) as i8
}

fn wide_of(codes: &[i8]) -> Vec<i16> {
    codes.iter().map(|&code| code.into()).collect()
}

/// Panels of bytes that are still to come.
fn like(out: usize, groups: Groups, width: PackedWidth, scale: Scale, signed: bool) -> CodePanels<'static> {
    CodePanels { bytes: &[], out, format: Integer { width, groups, scale, signed } }
}

/// So many inputs in groups of `size`; 0 is the whole row.
fn groups(len: usize, size: usize) -> Groups {
    if size == 0 { Groups::one(len) } else { Groups { len, size } }
}

fn floats<'a>(x: &'a [f32], stride: usize, input: usize, weights: &'a [f32]) -> Term<'a> {
    Term::Floats(Floats { x, stride, input, weights })
}

#[test]
fn f32_kernels_over_odd_shapes() {
    let mut random = Random(1);
    for (case, (out, input)) in DIMS.iter().flat_map(|&o| DIMS.iter().map(move |&i| (o, i))).enumerate() {
        let w = random.f32s(out * input);
        let packed = dense_panels(&w, out, input);
        assert_eq!(packed.len(), f32_panels_len(out, input));
        for &steps in STEPS {
            let x_stride = input + 5;
            let x = random.f32s(steps * x_stride - 5);
            let want: Vec<(f64, f64)> = (0..steps * out)
                .map(|i| {
                    let x = &x[i / out * x_stride..][..input];
                    x.iter().zip(&w[i % out * input..]).fold((0.0, 0.0), |(sum, size), (x, w)| {
                        let product = f64::from(*x) * f64::from(*w);
                        (sum + product, size + product.abs())
                    })
                })
                .collect();
            // Each product and each sum is rounded once.
            let tolerance = (input + 1) as f64 * 2f64.powi(-24);
            for (level, from) in Level::all().into_iter().flat_map(|l| FROM.map(|f| (l, f))) {
                let what = format!("{level:?}, {steps} x [{out}, {input}]");
                check(&what, (steps, out), from, &want, tolerance, |to, stride, start| {
                    let term = floats(&x, x_stride, input, &packed);
                    let products = Products::new(level, 1 + case % 3);
                    Product::new(&products, steps, out, once(term)).run_on(1 + case % 3, to, stride, start);
                });
            }
        }
    }
}

/// A map of codes, its panels, and what they mean.
struct Map {
    codes: Vec<i32>,
    /// `[groups][out]`
    scales: Vec<f32>,
    bytes: Vec<u8>,
}

fn pack(random: &mut Random, like: &CodePanels<'_>, powers: bool) -> Map {
    let &CodePanels { out, format: Integer { width, groups, scale, signed }, .. } = like;
    let Groups { len: input, size: group } = groups;
    let (bits, levels) = (width.bits(), width.per_byte());
    let half = i32::from(width.offset());
    let codes: Vec<i32> = (0..out * input).map(|_| random.next(1 << bits) as i32 - half).collect();
    // As f16 bits: 1 or 2, or anything between 2^-6 and 1.
    let f16s: Vec<u16> = (0..input.div_ceil(group) * out)
        .map(|_| {
            if powers {
                [0x3c00, 0x4000][random.next(2) as usize]
            } else {
                0x2400 + random.next(0x1800) as u16
            }
        })
        .collect();
    let scales: Vec<f32> = f16s.iter().map(|&b| scale_of(b)).collect();
    let mut bytes = vec![];
    for panel in (0..out).step_by(PANEL) {
        for first in (0..input).step_by(group) {
            let last = input.min(first + group);
            for quad in (first..last).step_by(QUAD) {
                for vector in 0..8 / levels {
                    for at in 0..16 {
                        let byte = (0..levels).fold(0u8, |byte, level| {
                            let o = panel + 4 * (vector * levels + level) + at / 4;
                            let k = quad + at % 4;
                            let code = if o < out && k < last { codes[o * input + k] } else { 0 };
                            byte | ((code + half) as u8) << (level * bits)
                        });
                        bytes.push(if signed { byte ^ 0x80 } else { byte });
                    }
                }
            }
            for o in panel..panel + PANEL {
                let at = first / group * out + o;
                match scale {
                    Scale::F32 => bytes.extend(if o < out { scales[at] } else { 0.0 }.to_le_bytes()),
                    Scale::F16 => bytes.extend(if o < out { f16s[at] } else { 0 }.to_le_bytes()),
                }
            }
        }
    }
    Map { codes, scales, bytes }
}

/// Of each token's groups, padding included.
fn sums_of(codes: &[i8], stride: usize, steps: usize, groups: Groups) -> Vec<i32> {
    let of_token = |t: usize| {
        let row = &codes[t * stride..][..groups.padded()];
        row.chunks(groups.size.next_multiple_of(QUAD)).map(|g| g.iter().map(|&c| i32::from(c)).sum())
    };
    (0..steps).flat_map(of_token).collect()
}

/// One shape on every level; exact where scales are powers of two.
fn check_int(
    random: &mut Random,
    steps: usize,
    like: CodePanels<'_>,
    from: From,
    threads: usize,
    powers: bool,
) {
    let CodePanels { out, format: Integer { groups, .. }, .. } = like;
    let Groups { len: input, size: group } = groups;
    let map = pack(random, &like, powers);
    let w = CodePanels { bytes: &map.bytes, ..like };
    assert_eq!(map.bytes.len(), w.size(), "{w:?}");
    let stride = groups.padded() + 9;
    // Padding holds anything.
    let codes: Vec<i8> = (0..steps * stride - 9).map(|_| activation(random)).collect();
    let sx: Vec<f32> = (0..steps).map(|_| if powers { 0.5 } else { random.f32() }).collect();
    let want: Vec<(f64, f64)> = (0..steps * out)
        .map(|i| {
            let (t, o) = (i / out, i % out);
            let mut sum = (0.0, 0.0);
            for first in (0..input).step_by(group) {
                let at = t * stride + first / group * group.next_multiple_of(QUAD);
                let x = &codes[at..];
                let exact: i64 = (first..input.min(first + group))
                    .map(|k| i64::from(map.codes[o * input + k]) * i64::from(x[k - first]))
                    .sum();
                let part = exact as f64 * f64::from(map.scales[first / group * out + o]) * f64::from(sx[t]);
                sum = (sum.0 + part, sum.1 + part.abs());
            }
            sum
        })
        .collect();
    // A conversion, a product and a sum per group, and the product with the token's scale.
    let tolerance = if powers { 0.0 } else { (groups.count() + 3) as f64 * 2f64.powi(-24) };
    let sums = sums_of(&codes, stride, steps, groups);
    let x = Activations { codes: &codes, wide: &wide_of(&codes), stride, scales: &sx, sums: &sums };
    for level in Level::all() {
        let what = format!("{level:?}, {steps} x {:?}", CodePanels { bytes: &[], ..like });
        check(&what, (steps, out), from, &want, tolerance, |to, stride, start| {
            let products = Products::new(level, threads);
            Product::new(&products, steps, out, once(Term::Codes(x, w))).run_on(threads, to, stride, start);
        });
    }
}

#[test]
fn integer_kernels_over_odd_shapes() {
    let mut random = Random(2);
    let mut case = 0;
    for (out, input) in DIMS.iter().flat_map(|&o| DIMS.iter().map(move |&i| (o, i))) {
        for (group, width) in GROUPS.iter().flat_map(|&g| PackedWidth::ALL.map(|w| (g, w))) {
            let scale = [Scale::F32, Scale::F16][case / 2 % 2];
            let like = like(out, groups(input, group), width, scale, case % 2 == 1);
            let steps = STEPS[case % STEPS.len()];
            check_int(&mut random, steps, like, FROM[case / 4 % 3], 1 + case % 3, false);
            check_int(&mut random, steps, like, From::Zero, 1, true);
            case += 1;
        }
    }
}

#[test]
fn integer_kernels_over_all_steps_and_forms() {
    let mut random = Random(3);
    for (steps, group) in STEPS.iter().flat_map(|&s| [0, 40].map(|g| (s, g))) {
        for (width, scale) in
            PackedWidth::ALL.into_iter().flat_map(|w| [Scale::F32, Scale::F16].map(|s| (w, s)))
        {
            for (signed, from) in [false, true].into_iter().flat_map(|s| FROM.map(|f| (s, f))) {
                let like = like(33, groups(93, group), width, scale, signed);
                check_int(&mut random, steps, like, from, 1, false);
                check_int(&mut random, steps, like, From::Zero, 2, true);
            }
        }
    }
}

/// No partial sum saturates or wraps: the largest weights of either sign times the largest activations.
#[test]
fn integer_kernels_are_exact_at_the_extremes() {
    let (out, steps) = (40, 13);
    for (width, signed) in PackedWidth::ALL.into_iter().flat_map(|w| [false, true].map(|s| (w, s))) {
        let (offset, top) = (i32::from(width.offset()), i32::from(width.offset()) - 1);
        for (input, group) in [(4, 0), (257, 0), (200, 40), (1300, 0)] {
            let like = like(out, groups(input, group), width, Scale::F32, signed);
            for weight in [-offset, top] {
                let mut map = pack(&mut Random(1), &like, true);
                // All codes are equal, padding aside: bytes of a quad repeat a code of zero, whose place a weight takes.
                let fill = |code: i32, flip: u8| {
                    let levels = width.per_byte();
                    (0..levels).fold(0u8, |b, l| b | ((code + offset) as u8) << (l * width.bits())) ^ flip
                };
                let flip = if signed { 0x80 } else { 0 };
                map.codes.fill(weight);
                let (panel, each) = (like.format.panel_bytes(), like.format.quad_bytes());
                for panel in map.bytes.chunks_exact_mut(panel) {
                    let mut at = 0;
                    for g in 0..like.format.groups.count() {
                        for quad in 0..like.format.groups.quads(g) {
                            let there = like.format.groups.inputs(g) - quad * QUAD;
                            for (k, byte) in panel[at..at + each].iter_mut().enumerate() {
                                *byte = fill(if k % QUAD < there { weight } else { 0 }, flip);
                            }
                            at += each;
                        }
                        at += PANEL * like.format.scale.size();
                    }
                }
                for x in [-127i8, 127] {
                    let stride = like.format.groups.padded();
                    let codes = vec![x; steps * stride];
                    let sums = sums_of(&codes, stride, steps, like.format.groups);
                    let x_at = Activations {
                        codes: &codes,
                        wide: &wide_of(&codes),
                        stride,
                        scales: &vec![1.0; steps],
                        sums: &sums,
                    };
                    let w = CodePanels { bytes: &map.bytes, ..like };
                    let part = |g: usize, o: usize| {
                        (like.format.groups.inputs(g) as i32 * weight * i32::from(x)) as f32
                            * map.scales[g * out + o]
                    };
                    let want: Vec<f32> =
                        (0..out).map(|o| (0..like.format.groups.count()).map(|g| part(g, o)).sum()).collect();
                    for (level, steps) in Level::all().into_iter().flat_map(|l| [1, 2, 5, 13].map(|s| (l, s)))
                    {
                        let mut to = vec![0.0; steps * out];
                        Products::new(level, 1).product(
                            steps,
                            out,
                            once(Term::Codes(x_at, w)),
                            &mut to,
                            out,
                            Start::Zero,
                        );
                        for row in to.chunks_exact(out) {
                            assert_eq!(
                                row, want,
                                "{level:?}, {width:?}, signed: {signed}, {steps} x {input}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Processors with AVX-VNNI alone are rare; those with AVX-512 have its product in another encoding.
#[cfg(target_arch = "x86_64")]
#[test]
fn kernels_for_avx_vnni_give_the_bits_of_avx_512() {
    use crate::integer::Job;
    use crate::share::PanelRange;
    let Ok(level) = "avx512-vnni".parse::<Level>() else { return };
    let mut random = Random(12);
    for (width, group) in PackedWidth::ALL.into_iter().flat_map(|w| GROUPS.iter().map(move |&g| (w, g))) {
        for (scale, steps) in [Scale::F32, Scale::F16].into_iter().flat_map(|s| (1..=8).map(move |n| (s, n)))
        {
            let (out, input) = (70, 93);
            let like = like(out, groups(input, group), width, scale, false);
            let map = pack(&mut random, &like, false);
            let w = CodePanels { bytes: &map.bytes, ..like };
            let stride = like.format.groups.padded();
            let codes: Vec<i8> = (0..steps * stride).map(|_| activation(&mut random)).collect();
            let (scales, sums) = (random.f32s(steps), sums_of(&codes, stride, steps, like.format.groups));
            let x = Activations { codes: &codes, wide: &[], stride, scales: &scales, sums: &sums };
            let [mut have, mut want] = [(); 2].map(|()| vec![0.0; steps * out]);
            Products::new(level, 1).product(steps, out, once(Term::Codes(x, w)), &mut want, out, Start::Zero);
            let to = Destination::new(steps, &mut have, out, out, Start::Zero);
            let panels = PanelRange { range: 0..out.div_ceil(PANEL), reversed: false };
            // SAFETY: there is one thread; the level is proof of the instructions.
            assert!(unsafe { Job::new(steps, &x, &w).run_evex(panels, &to) });
            assert_eq!(have, want, "{width:?}, groups of {group}, {scale:?}, {steps} steps");
        }
    }
}

#[test]
fn a_recurrent_product_takes_panels_in_either_order() {
    let mut random = Random(9);
    for (out, input) in [(1, 3), (33, 31), (100, 257)] {
        let (x, w) = (random.f32s(input), random.f32s(out * input));
        let panels = dense_panels(&w, out, input);
        let term = || floats(&x, input, input, &panels);
        let begin = random.f32s(out);
        for level in Level::all() {
            let products = Products::new(level, 1);
            let mut want = begin.clone();
            products.product(1, out, once(term()), &mut want, out, Start::Accumulate);
            for reversed in [false, true] {
                let mut to = begin.clone();
                products.recurrent_product(out, term(), &mut to, reversed);
                assert_eq!(to, want, "{level:?}, {out} x {input}, reversed: {reversed}");
            }
        }
    }
}

#[test]
fn tokens_go_through_in_blocks_that_fit_the_cache() {
    let (steps, out, input) = if SLOW { (3, 5, 300) } else { (45, 5, 3000) };
    let (x, w) = (vec![1.0; steps * input], vec![0.5; out * input]);
    let panels = dense_panels(&w, out, input);
    for level in Level::all() {
        let mut to = vec![0.0; steps * out];
        let term = once(floats(&x, input, input, &panels));
        Products::new(level, 1).product(steps, out, term, &mut to, out, Start::Zero);
        assert_eq!(to, vec![0.5 * input as f32; steps * out], "{level:?}");
    }
    let input = if SLOW { 1100 } else { 11_000 };
    let like = like(out, groups(input, 100), PackedWidth::Four, Scale::F32, false);
    check_int(&mut Random(4), steps, like, From::Bias, 1, false);
}

/// Terms of both kinds, and so many outputs that there are blocks and sections, the last ones partial.
#[test]
fn log_probabilities_are_those_of_the_logits() {
    let mut random = Random(6);
    for (case, (steps, out)) in
        [(1, 3), (5, 33), (13, 257), (7, if SLOW { 1100 } else { 2500 })].into_iter().enumerate()
    {
        let input = 31;
        let w = random.f32s(out * input);
        let packed = dense_panels(&w, out, input);
        let groups = Groups::one(input);
        let like = like(out, groups, PackedWidth::Eight, Scale::F16, case % 2 == 1);
        let map = pack(&mut random, &like, false);
        let stride = groups.padded();
        let codes: Vec<i8> = (0..steps * stride).map(|_| random.next(16) as i8 - 8).collect();
        let scales = vec![0.01; steps];
        let sums = sums_of(&codes, stride, steps, groups);
        let x = random.f32s(steps * input);
        let terms = [
            Term::Codes(
                Activations { codes: &codes, wide: &wide_of(&codes), stride, scales: &scales, sums: &sums },
                CodePanels { bytes: &map.bytes, ..like },
            ),
            floats(&x, input, input, &packed),
        ];
        let bias = random.f32s(out);
        // The last output does not count.
        let count = out - 1;
        let targets: Vec<u32> = (0..steps).map(|t| ((t * 7919 + 1) % count) as u32).collect();
        for level in Level::all() {
            let products = Products::new(level, 3);
            let product = Product::new(&products, steps, out, terms.iter().copied());
            let mut logits = vec![0.0; steps * out];
            product.run_on(1, &mut logits, out, Start::Bias(&bias));
            let mut one = vec![0.0; steps];
            product.log_probabilities_on(1, count, Start::Bias(&bias), &targets, &mut one);
            for ((row, &target), have) in logits.chunks(out).zip(&targets).zip(&one) {
                let row = &row[..count];
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|&x| f64::from(x - top).exp()).sum();
                let want = f64::from(row[target as usize]) - f64::from(top) - sum.ln();
                // In units of 2^-24: the terms' errors of at most 3.5 ULP and their exponents', sums of lanes, and two roundings.
                let bound = (7.0 + 40.0 + 160.0 + 2.0 * f64::from(top.abs()) + want.abs()) * 2f64.powi(-24);
                assert!(
                    (f64::from(*have) - want).abs() <= bound,
                    "{level:?}, {out}: {have}, expected {want}"
                );
            }
            let mut three = vec![0.0; steps];
            product.log_probabilities_on(3, count, Start::Bias(&bias), &targets, &mut three);
            assert_eq!(one, three, "the same on any number of threads");
        }
    }
}

/// A last panel of which few columns are kept, though its weights are whole: what lies behind them must stay.
#[test]
fn first_columns_keep_what_lies_behind_them() {
    let mut random = Random(11);
    let input = 7;
    for count in (1..=100).step_by(if SLOW { 31 } else { 1 }) {
        let out = usize::next_multiple_of(count, PANEL);
        let w = random.f32s(out * input);
        let packed = dense_panels(&w, out, input);
        let groups = Groups::one(input);
        let like = like(out, groups, PackedWidth::Eight, Scale::F32, false);
        let map = pack(&mut random, &like, true);
        for steps in [1, 2, 3, 6, 7, 9, 13] {
            let x = random.f32s(steps * input);
            let codes: Vec<i8> = (0..steps * 8).map(|_| activation(&mut random)).collect();
            let (scales, sums) = (vec![1.0; steps], sums_of(&codes, 8, steps, groups));
            let activations = Activations {
                codes: &codes,
                wide: &wide_of(&codes),
                stride: 8,
                scales: &scales,
                sums: &sums,
            };
            let terms = [
                floats(&x, input, input, &packed),
                Term::Codes(activations, CodePanels { bytes: &map.bytes, ..like }),
            ];
            for term in terms {
                let stride = count + 2;
                let mut whole = vec![0.0; steps * out];
                one_thread().product(steps, out, once(term), &mut whole, out, Start::Zero);
                for level in Level::all() {
                    let mut to = vec![GAP; steps * stride];
                    let products = Products::new(level, 1);
                    products.first_columns(steps, [out, count], once(term), &mut to, stride, Start::Zero);
                    for (t, row) in to.chunks(stride).enumerate() {
                        assert_eq!(row[count..], [GAP; 2], "{level:?}, {steps} x {count}: behind the row");
                        for (have, want) in row[..count].iter().zip(&whole[t * out..]) {
                            let error = (have - want).abs();
                            assert!(error <= 1e-5, "{level:?}, {steps} x {count}: {have}, expected {want}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "a tile of 3 tokens from 1 on")]
fn a_tile_beyond_its_destination_is_refused() {
    let mut to = [0.0; 6];
    let to = Destination::new(3, &mut to, 2, 2, Start::Zero);
    // SAFETY: nothing else uses the destination.
    unsafe { to.tile(1, 3, 0, 0) };
}

/// Sizes whose products wrap to small numbers.
#[test]
fn sizes_that_wrap_are_refused() {
    let refused = |f: &dyn Fn()| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_err();
        caught.downcast_ref::<String>().unwrap().clone()
    };
    let huge = 1usize << 62;
    for level in Level::all() {
        let products = Products::new(level, 1);
        let dense = || {
            let term = floats(&[0.0; 8], 8, 4, &[0.0; 128]);
            products.product(1, huge, once(term), &mut [0.0; 4], huge, Start::Zero);
        };
        assert!(refused(&dense).contains("f32 panels of"));
        let codes = |out: usize, input: usize, group: usize| {
            let like = like(out, groups(input, group), PackedWidth::Eight, Scale::F32, false);
            let like = CodePanels { bytes: &[0; 256], ..like };
            let x = Activations {
                codes: &[0; 64],
                wide: &[0; 64],
                stride: usize::MAX,
                scales: &[1.0],
                sums: &[0; 64],
            };
            products.product(1, out, once(Term::Codes(x, like)), &mut [0.0; 4], out, Start::Zero);
        };
        assert!(refused(&|| codes(huge, 4, 0)).contains("integer panels take"));
        assert!(refused(&|| codes(4, usize::MAX, 1)).contains("activations: 1 rows of 18446744073709551615"));
    }
}

#[test]
#[should_panic(expected = "targets are below 31")]
fn a_target_that_is_no_output_is_refused() {
    let term = floats(&[0.0; 2], 2, 2, &[0.0; 64]);
    one_thread().log_probabilities([32, 31], once(term), Start::Zero, &[31], &mut [0.0]);
}

#[test]
fn nothing_is_written_where_there_is_nothing() {
    let mut to = [GAP; 4];
    one_thread().product(0, 4, once(floats(&[], 3, 3, &[0.0; 3 * PANEL])), &mut to, 4, Start::Zero);
    assert_eq!(to, [GAP; 4]);
    // No inputs: a sum of nothing.
    for level in Level::all() {
        let mut to = [GAP; 20];
        let term = once(floats(&[], 0, 0, &[]));
        Products::new(level, 1).product(1, 20, term, &mut to, 20, Start::Zero);
        assert_eq!(to, [0.0; 20]);
    }
    let none = like(3, Groups::one(0), PackedWidth::Eight, Scale::F32, false);
    let x = Activations { codes: &[], wide: &[], stride: 0, scales: &[1.0], sums: &[] };
    for products in Level::all().into_iter().map(|level| Products::new(level, 1)) {
        let mut to = [GAP; 4];
        products.product(1, 2, once(floats(&[], 0, 0, &[])), &mut to, 4, Start::Bias(&[1.0, 2.0]));
        assert_eq!(to, [1.0, 2.0, GAP, GAP]);
        products.product(1, 3, once(Term::Codes(x, none)), &mut to, 4, Start::Zero);
        assert_eq!(to, [0.0, 0.0, 0.0, GAP]);
    }
}

#[test]
#[should_panic(expected = "f32 panels of [33, 2] have 128 f32s, not 127")]
fn short_panels_are_refused() {
    one_thread().product(1, 33, once(floats(&[0.0; 2], 2, 2, &[0.0; 127])), &mut [0.0; 33], 33, Start::Zero);
}

#[test]
#[should_panic(expected = "destination: 2 rows of 33 at a stride of 33 do not fit 65 elements")]
fn a_short_destination_is_refused() {
    one_thread().product(2, 33, once(floats(&[0.0; 4], 2, 2, &[0.0; 128])), &mut [0.0; 65], 33, Start::Zero);
}

#[test]
fn rows_are_quantized_by_their_largest_magnitude() {
    let mut random = Random(5);
    for (len, group) in DIMS.iter().flat_map(|&d| GROUPS.iter().map(move |&g| (d, g))) {
        let (steps, x_stride) = (3, len + 2);
        let x = random.f32s(steps * x_stride);
        for level in Level::all() {
            let mut rows = CodeRows::default();
            let groups = groups(len, group);
            rows.fill(level, steps, &x, x_stride, groups);
            let Activations { codes, stride, scales, sums, .. } = rows.activations();
            for t in 0..steps {
                let x = &x[t * x_stride..][..len];
                let top = x.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
                assert_eq!(scales[t], top / 127.0);
                let want: Vec<i8> = x
                    .chunks(groups.size)
                    .flat_map(|x| {
                        let codes = x.iter().map(|x| (x * (127.0 / top)).round_ties_even() as i8);
                        codes.chain([0; QUAD]).take(x.len().next_multiple_of(QUAD)).collect::<Vec<_>>()
                    })
                    .collect();
                assert_eq!(codes[t * stride..(t + 1) * stride], want, "{level:?}");
            }
            assert_eq!(sums, sums_of(codes, stride, steps, groups), "{level:?}");
        }
    }
}

#[test]
fn quantized_extremes() {
    let mut codes = [1i8; 4];
    let mut plain = |x: [f32; 4]| {
        let scale = quantize::row(&x, 4, &mut codes, &mut [0]);
        (codes, scale)
    };
    assert_eq!(plain([0.0, -0.0, 0.0, 0.0]), ([0; 4], 1e-30 / 127.0));
    assert_eq!(plain([-127.0, 127.0, 0.5, 1.5]), ([-127, 127, 0, 2], 1.0));
    assert!(plain([0.0, f32::NAN, 1.0, 1.0]).1.is_nan());
}

#[test]
fn every_finite_f16_is_converted_exactly() {
    for bits in (0..=u16::MAX).step_by(if SLOW { 97 } else { 1 }) {
        let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 => continue,
            e => (1.0 + fraction / 1024.0) * 2f64.powi(e - 15),
        };
        let have = f64::from(scale_of(bits));
        assert_eq!(have.abs(), magnitude, "{bits:#06x}");
        assert_eq!(have.is_sign_negative(), sign == 1);
    }
}
