use super::*;
use crate::ir::arbitrary::{self, Kind, language_model_of, random_map, random_mask};
use crate::ir::map::{CodeFormat, Granularity, LowRank, Part, Pattern, Quantized, Sparse};
use crate::ir::{Wanted, parse_with, print};
use proptest::prelude::*;

fn graph_of(map: LinearMap) -> Graph {
    let mut graph = Graph::new("m");
    graph.add_weight("w/\"1\"", map).unwrap();
    graph
}

/// Stores and restores; checks sizes on the way.
fn round_trips(graph: &Graph) -> Vec<(String, Encoding, Vec<usize>, usize)> {
    let blobs = store(graph).unwrap();
    let total: usize = blobs.iter().map(|b| b.bytes.len()).sum();
    assert_eq!(weight_bytes(graph).unwrap().iter().map(|(_, n)| n).sum::<usize>(), total);
    let text = print(graph);
    let coded = store_compressed(graph).unwrap();
    let bytes = compressed_weight_bytes(graph).unwrap().iter().map(|(_, n)| n).sum::<usize>();
    assert_eq!(coded.iter().map(|b| b.bytes.len()).sum::<usize>(), bytes);
    assert!(bytes <= total);
    let find = |path: &str| coded.iter().find(|b| b.path == path).cloned();
    let back = parse_with(&text, &mut StoredWeights::new(find)).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(graph.weights().zip(back.weights()).all(|((_, a), (_, b))| a == b), "{text}");
    let mut asked = vec![];
    let mut source = StoredWeights::new(|path: &str| {
        asked.push(path.to_string());
        blobs.iter().find(|b| b.path == path).cloned()
    });
    let back = parse_with(&text, &mut source).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for ((_, a), (_, b)) in graph.weights().zip(back.weights()) {
        assert_eq!(a, b, "{text}");
        assert!(!b.map.is_elided());
    }
    // Integer constants are in the text and so not asked for; all else is, in order.
    let mut paths = blobs.iter().map(|b| &b.path);
    assert!(asked.iter().all(|a| paths.any(|p| p == a)), "{asked:?}");
    blobs.iter().map(|b| (b.path.clone(), b.encoding, b.shape.clone(), b.bytes.len())).collect()
}

proptest! {
    #[test]
    fn storing_and_restoring_is_the_identity(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        rows in prop::sample::select(vec![0usize, 1, 3, 31, 33, 64]),
        cols in prop::sample::select(vec![0usize, 1, 3, 31, 33, 64]),
        seed in any::<u64>(),
    ) {
        // A factor or core of no rows has no rank to draw.
        prop_assume!(rows * cols > 0 || matches!(kind, Kind::Dense | Kind::Quantized | Kind::Sparse));
        let map = random_map(kind, [rows, cols], seed);
        prop_assert_eq!(map.shape(), vec![rows, cols]);
        let sum: usize = round_trips(&graph_of(map.clone())).iter().map(|(.., n)| n).sum();
        prop_assert_eq!(stored_bytes(&map).unwrap(), sum);
    }

    #[test]
    fn any_blob_gives_a_tensor_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        encoding in prop::sample::select(Encoding::all().collect::<Vec<_>>()),
        dtype in prop::sample::select(DType::ALL.to_vec()),
        shape in prop::collection::vec(0usize..12, 0..3),
        wanted_shape in prop::collection::vec(prop::sample::select(vec![0usize, 0, 1, 2, 5, 8, 1 << 20, 1 << 40, usize::MAX]), 0..3),
        same in any::<bool>(),
        mask in prop::collection::vec(any::<bool>(), 0..30),
        rows in 1usize..9,
    ) {
        let wanted_shape = if same { shape.clone() } else { wanted_shape };
        let kept = Some(Kept { pattern: Pattern::Block { rows, cols: 1 }, mask: &mask });
        let stored = Stored { path: "w".into(), encoding, shape, bytes: bytes.into() };
        let wanted = Wanted { path: "w", dtype, shape: &wanted_shape, kept };
        if let Ok(t) = restore(&wanted, &stored) {
            prop_assert_eq!(t.shape(), &wanted_shape);
            prop_assert_eq!(t.dtype(), dtype);
        }
    }
}

#[test]
fn every_width_grain_and_scale_round_trips() {
    for format in CodeFormat::ALL {
        for shape in [[1, 1], [3, 31], [31, 33], [33, 3]] {
            for (grain, scales, asymmetric) in [
                (Granularity::Row, DType::F32, false),
                (Granularity::Group(8), DType::F16, true),
                (Granularity::Group(100), DType::F32, true),
            ] {
                let map = arbitrary::quantized(shape, format, grain, scales, asymmetric, 7).unwrap();
                let blobs = round_trips(&graph_of(map.clone()));
                assert_eq!(blobs[0].3, (shape[0] * shape[1] * usize::from(format.bits())).div_ceil(8));
                for pattern in
                    [Pattern::UNSTRUCTURED, Pattern::Block { rows: 2, cols: 4 }, Pattern::NOfM { n: 1, m: 4 }]
                {
                    round_trips(&graph_of(arbitrary::sparse(pattern, 0.3, map.clone(), 8).unwrap()));
                }
            }
        }
    }
}

#[test]
fn constants_of_every_dtype_and_rank_round_trip() {
    let mut graph = Graph::new("m");
    for dtype in DType::ALL {
        for (i, shape) in [&[][..], &[0], &[70], &[2, 3, 4]].into_iter().enumerate() {
            let t = arbitrary::random_tensor(dtype, shape, 3).unwrap();
            graph.add_weight(&format!("{dtype}.{i}"), t).unwrap();
        }
    }
    round_trips(&graph);
}

#[test]
fn what_each_part_of_a_pruned_int4_map_takes() {
    let values =
        arbitrary::quantized([40, 50], CodeFormat::Int4, Granularity::Group(25), DType::F16, true, 1)
            .unwrap();
    let dense_mask = arbitrary::sparse(Pattern::UNSTRUCTURED, 0.5, values.clone(), 2).unwrap();
    let thin_mask = arbitrary::sparse(Pattern::Block { rows: 4, cols: 1 }, 0.1, values, 3).unwrap();
    let lines = [dense_mask, thin_mask].map(|map| {
        let blobs = round_trips(&graph_of(map));
        let lines =
            blobs.iter().map(|(path, encoding, shape, n)| format!("{path}: {encoding} {shape:?}, {n} bytes"));
        lines.collect::<Vec<_>>().join("\n")
    });
    insta::assert_snapshot!(lines.join("\n\n"));
}

#[test]
fn a_shared_part_is_stored_and_counted_once() {
    let (left, right) = (Part::new(arbitrary::dense([16, 2], 1)), Part::new(arbitrary::dense([2, 4], 2)));
    let graph = language_model_of(4, 1, 6, |name, shape| match name {
        "lstm0.input" | "lstm0.recurrent" => {
            LowRank::new(left.clone(), right.clone()).map(LinearMap::LowRank).unwrap()
        }
        _ => arbitrary::dense(shape, 3),
    });
    round_trips(&graph);
    let bytes = weight_bytes(&graph).unwrap();
    let of = |name: &str| bytes.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!((of("lstm0.input"), of("lstm0.recurrent")), (4 * (32 + 8), 0));
    let weight = &graph.weight(graph.weight_named("lstm0.recurrent").unwrap()).map;
    assert_eq!(stored_bytes(weight).unwrap(), 4 * (32 + 8));
}

#[test]
fn dense_weights_are_borrowed() {
    let graph = graph_of(arbitrary::dense([8, 8], 1));
    assert_eq!(matches!(store(&graph).unwrap()[0].bytes, Cow::Borrowed(_)), cfg!(target_endian = "little"));
}

#[test]
fn a_nearly_empty_map_is_stored_so_that_it_may_be_read_again() {
    // Both maps are so empty that the smallest encoding would look hostile.
    let wide = arbitrary::dense([300, 300], 1);
    let mask = random_mask(Pattern::UNSTRUCTURED, &[300, 300], 0.0, 1).unwrap();
    let empty = Sparse::new(Pattern::UNSTRUCTURED, mask, Part::new(wide)).unwrap();
    let blobs = round_trips(&graph_of(LinearMap::Sparse(empty)));
    assert_eq!(blobs[0].1, Encoding::Bitmap);
    assert_eq!(blobs[1].2, [300, 300]);
}

/// What a mask keeps is so little, and codes to so few bytes, that these may not stand for the whole map.
#[test]
fn coded_blobs_are_as_long_as_may_be_read_again() {
    const SHAPE: [usize; 2] = [1000, 1000];
    let codes = |every: usize| (0..1_000_000).map(|i| i8::from(i % every == 0)).collect();
    for (density, every) in [(1.0, 1000), (0.02, 50), (0.01, 10_000)] {
        let codes = Tensor::from_i8(SHAPE, codes(every)).unwrap();
        let scales = arbitrary::random_tensor(DType::F16, &[1000, 1], 1).unwrap();
        let values = Quantized::new(CodeFormat::Int8, Granularity::Row, codes, scales, None).unwrap();
        let map = arbitrary::sparse(Pattern::UNSTRUCTURED, density, LinearMap::Quantized(values), 1).unwrap();
        let graph = graph_of(map);
        round_trips(&graph);
        let blobs = store_compressed(&graph).unwrap();
        let codes = blobs.iter().find(|b| b.path.ends_with("codes")).unwrap();
        let least = least_bytes(1_000_000);
        assert_eq!(codes.encoding, Encoding::Context(CodeFormat::Int8), "{density}");
        assert!((least..2 * least).contains(&codes.bytes.len()), "{} bytes", codes.bytes.len());
    }
}

#[test]
fn sizes_need_no_data_but_that_of_masks() {
    let map = random_map(Kind::Quantized, [31, 33], 1);
    let graph = crate::ir::parse(&print(&graph_of(map.clone()))).unwrap();
    assert_eq!(weight_bytes(&graph).unwrap()[0].1, stored_bytes(&map).unwrap());
    assert!(store(&graph).is_err());
    let sparse = arbitrary::sparse(Pattern::UNSTRUCTURED, 0.5, map, 1).unwrap();
    let graph = crate::ir::parse(&print(&graph_of(sparse))).unwrap();
    assert!(weight_bytes(&graph).unwrap_err().to_string().contains("is not at hand"));
}

#[test]
fn encodings_have_names() {
    for encoding in Encoding::all() {
        assert_eq!(Encoding::from_name(encoding.name()), Some(encoding));
    }
    assert_eq!(Encoding::from_name("int7"), None);
}

#[test]
fn blobs_that_do_not_fit_are_refused() {
    let mask = [true, false, true, true];
    let kept = Some(Kept { pattern: Pattern::UNSTRUCTURED, mask: &mask });
    let none = Some(Kept { pattern: Pattern::Block { rows: 1 << 20, cols: 1 << 20 }, mask: &[false] });
    let big = [1usize << 20, 1 << 20];
    type Case<'a> = (DType, &'a [usize], Option<Kept<'a>>, Encoding, &'a [usize], usize);
    let cases: [Case<'_>; 9] = [
        (DType::F32, &[2, 2], None, Encoding::Plain(DType::F16), &[2, 2], 8),
        (DType::F32, &[2, 2], None, Encoding::Packed(CodeFormat::Int4), &[2, 2], 2),
        (DType::F32, &[2, 2], None, Encoding::Plain(DType::F32), &[4], 16),
        (DType::F32, &[2, 2], kept, Encoding::Plain(DType::F32), &[2], 8),
        (DType::F32, &[2, 2], kept, Encoding::Plain(DType::F32), &[3], 16),
        (DType::I8, &[2, 2], kept, Encoding::Packed(CodeFormat::Int3), &[3], 1),
        (DType::Bool, &big, None, Encoding::Delta, &big, 1),
        (DType::F32, &big, none, Encoding::Plain(DType::F32), &[0], 0),
        (DType::F32, &[usize::MAX, 2], None, Encoding::Plain(DType::F32), &[usize::MAX, 2], 0),
    ];
    let errors = cases.map(|(dtype, shape, kept, encoding, stored_shape, n)| {
        let bytes = vec![0u8; n].into();
        let stored = Stored { path: "w".into(), encoding, shape: stored_shape.to_vec(), bytes };
        restore(&Wanted { path: "w", dtype, shape, kept }, &stored).unwrap_err().to_string()
    });
    insta::assert_snapshot!(errors.join("\n"));
}
