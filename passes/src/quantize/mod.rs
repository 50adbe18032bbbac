//! `quantize`: converts weights to codes of a few bits.
//!
//! *Lossy.* `w[i][j] ~ scale[i][g] * (code[i][j] - zero[i][g])`, with a scale per row or per group of consecutive inputs. Works on every matrix, in
//! any representation:
//!
//! | representation | what is quantized |
//! |---|---|
//! | dense | the matrix |
//! | sparse | the weights that the mask keeps; the mask stays |
//! | low-rank | both factors, the right one first: the left one is refitted to the outputs of the quantized right one; shared factors stay shared |
//! | tensor-train | each core separately |
//! | quantized | nothing: an error. `decode` it first |
//!
//! For each layer, the pass minimises the mean squared error of its outputs on calibration text, `E |W x - V x|^2`. For an LSTM, `W x` is the sum of
//! its two products, so an error of the recurrent map can compensate one of the input map. An embedding's rows are judged by the effect of their
//! errors on the maps that read them, which needs no text. See [`crate::solve::quantize`] for the algorithms: GPTQ (Frantar et al. 2023), scales
//! searched with feedback, then coordinate descent.
//!
//! With `rate`, `bytes` or `loss` instead of `bits`, steps follow from what the loss needs, and sizes are those after entropy coding: `quantize/rate.rs`.
//!
//! With `activations=int8` the vector of a product is rounded too, to int8 with one scale, at each step (dynamic quantization; symmetric
//! integer arithmetic as in Jacob et al. 2018, section 2): [`Activations`] has the formula. It costs no byte and lets kernels multiply integers. The
//! solvers ignore it. An embedding's rows enter no product, so a table has it only if it is also an output layer; cores of tensor trains take f32.

mod bits;
mod rate;
mod sum;

use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::{Context, Outcome, Pass, PassError};
use crate::sites::{
    DAMPING_OPTION, Draft, Moment, REFIT_OPTION, Site, SiteKind, corrected_bias, dense_map, describe,
    reader_hessian, sites,
};
use crate::solve::quantize::{QuantizeOptions, Rounding};
use crate::solve::{Hessian, row_errors};
use crate::target::Target;
use crate::watch::Steps;
use bits::Bits;
use half::f16;
use lstmc_frontend::ir::{
    Activations, CodeFormat, Granularity, Graph, LinearMap, Part, Quantized, SetActivations, WeightId,
};
use lstmc_frontend::tensor::{DType, Tensor};
use rate::AtRate;
use sum::{Errors, Quantizer};

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "quantize",
    summary: "store weights as codes of a few bits with scales",
    options: &[
        OptionInfo::target("the weights, by name"),
        OptionInfo::new("bits", Kind::CodeBits, "bits per code"),
        OptionInfo::new(
            "rate",
            Kind::Number { min: 0.01, max: 8.0 },
            "instead of bits: bits per weight on average, after entropy coding, everything included",
        ),
        OptionInfo::new("bytes", Kind::COUNT, "instead of bits: bytes of the target after entropy coding"),
        OptionInfo::new(
            "loss",
            Kind::Number { min: 1e-6, max: 10.0 },
            "instead of bits: how much the mean negative log-likelihood of the calibration text may rise",
        ),
        OptionInfo::new("group", Kind::COUNT, "consecutive inputs per scale; one scale per row otherwise"),
        OptionInfo::new(
            "method",
            Kind::Word(&["gptq", "nearest"]),
            "error feedback on calibration text, or data-free rounding, the default for 8 bits",
        ),
        OptionInfo::new("asymmetric", Kind::Flag, "a zero point per scale").or("false"),
        OptionInfo::new(
            "act-order",
            Kind::Flag,
            "round groups and columns of large inputs first; the default with gptq",
        ),
        OptionInfo::new("scales", Kind::Word(&["f16", "f32"]), "what scales are stored as").or("f16"),
        OptionInfo::new(
            "sequential",
            Kind::Flag,
            "collect statistics anew after each layer, on the model as it then is",
        )
        .or("false"),
        OptionInfo::new(
            "bias-correction",
            Kind::Flag,
            "move biases so that mean outputs stay; the default with gptq",
        ),
        REFIT_OPTION,
        DAMPING_OPTION,
        OptionInfo::new(
            "sweeps",
            Kind::Integer { min: 0, max: 1000 },
            "rounds of descent on codes and scales",
        )
        .or_integer(QuantizeOptions::SWEEPS),
        OptionInfo::new("biases", Kind::Word(&["f16", "f32"]), "what biases of the target are stored as")
            .or("f16"),
        OptionInfo::new(
            "activations",
            Kind::Word(&["f32", "int8"]),
            "how products take their vectors: as they are, or rounded with one scale for each",
        )
        .or("int8"),
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |options| options.given::<usize>("bits").is_none() || is_gptq(options),
    make,
};

fn make(options: &Options) -> Result<Box<dyn Pass>, PassError> {
    let number = |name| options.given::<f64>(name).map(|value| Some((name, value)));
    let bytes = options.given::<usize>("bytes").map(|bytes| Some(("bytes", bytes as f64)));
    let bits = options.given::<usize>("bits").map(|_| None);
    let ways = [bits, number("rate"), bytes, number("loss")];
    Ok(match Options::only("quantize: expected one of bits, rate, bytes and loss", ways)? {
        None => Box::new(Quantize::new(options)?),
        Some(goal) => Box::new(AtRate::new(options, goal)?),
    })
}

/// The format with the number of bits that the options say.
fn format_of(options: &Options) -> Option<CodeFormat> {
    CodeFormat::of_bits(options.given::<usize>("bits")?.try_into().ok()?)
}

/// Fine codes lose nothing that calibration could recover.
fn is_gptq(options: &Options) -> bool {
    match options.given::<&str>("method") {
        Some(method) => method == "gptq",
        None => !format_of(options).is_some_and(CodeFormat::is_fine),
    }
}

/// Damping of second moments.
const DAMPING: f64 = 0.05;

/// The option that works without calibration text.
const INSTEAD: &str = "method=nearest";

struct Quantize {
    target: Target,
    gptq: bool,
    sequential: bool,
    bias_correction: bool,
    damping: f64,
    refit_rounds: usize,
    f16_biases: bool,
    activations: Activations,
    solver: QuantizeOptions,
}

impl Quantize {
    fn new(options: &Options) -> Result<Quantize, PassError> {
        let gptq = is_gptq(options);
        let format = format_of(options)
            .ok_or_else(|| PassError::Options(format!("bits: expected {}", CodeFormat::widths())))?;
        if !gptq {
            for name in ["act-order", "sequential", "bias-correction"] {
                if options.given(name) == Some(true) {
                    return Err(PassError::Options(format!(
                        "{name}=true has no effect with method=nearest, which uses no calibration text; say method=gptq"
                    )));
                }
            }
        }
        let mut solver = QuantizeOptions {
            group: options.given("group"),
            f16_scales: options.get::<&str>("scales") == "f16",
            asymmetric: options.get("asymmetric"),
            sweeps: options.get("sweeps"),
            ..QuantizeOptions::new(format, gptq)
        };
        if options.given("act-order") == Some(false) && gptq {
            solver.rounding = Rounding::Feedback;
        }
        Ok(Quantize {
            target: options.get("target"),
            gptq,
            sequential: options.get("sequential"),
            bias_correction: options.given("bias-correction").unwrap_or(gptq),
            damping: options.given("damping").unwrap_or(DAMPING),
            refit_rounds: options.get("refit-rounds"),
            f16_biases: options.get::<&str>("biases") == "f16",
            activations: Activations::from_name(options.get("activations")).unwrap_or_default(),
            solver,
        })
    }

    /// The second moment that errors of the chosen maps of a site are judged by, and the means if the bias will be corrected.
    fn moment(
        &self,
        graph: &Graph,
        site: &Site,
        chosen: &[usize],
        corrects: bool,
        context: &mut Context<'_>,
    ) -> Result<(Option<Hessian>, Option<Moment>), PassError> {
        if !self.gptq {
            return Ok((None, None));
        }
        if let SiteKind::Embedding { readers, .. } = &site.kind {
            return Ok((reader_hessian(graph, readers, site.maps[0].1.len(), self.damping)?, None));
        }
        let moment = match self.sequential {
            true => Moment::of(&context.inputs_now(graph, INSTEAD)?, graph, site, chosen)?,
            false => Moment::of(&*context.statistics(graph, INSTEAD)?, graph, site, chosen)?,
        };
        let h = moment.hessian(corrects, self.damping);
        let h = h.map_err(|source| PassError::Solve { weight: site.name.clone(), source })?;
        Ok((Some(h), Some(moment)))
    }
}

impl Pass for Quantize {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let targets = self.target.matrices(graph)?;
        let mut draft = Draft::of(graph);
        let mut errors = vec![];
        refuse_quantized(graph, &targets)?;
        let sites: Vec<(Site, Vec<usize>)> = sites(graph)?
            .into_iter()
            .map(|site| {
                let chosen = site.chosen(&targets);
                (site, chosen)
            })
            .filter(|(_, chosen): &(Site, Vec<usize>)| !chosen.is_empty())
            .collect();
        let rows_of = |(site, chosen): &(Site, Vec<usize>)| {
            let maps: Vec<&LinearMap> = chosen.iter().map(|&k| &*graph.weight(site.maps[k].0).map).collect();
            sum::rows(&maps)
        };
        let steps = context.steps(INFO.name, sites.iter().map(rows_of).sum());
        let mut quantizer = Quantizer::new(Bits { options: self.solver.clone(), steps });
        for (site, chosen) in sites {
            let is_plain = |id: &WeightId| matches!(&*graph.weight(*id).map, LinearMap::Dense(_));
            let corrects = self.bias_correction && site.bias.as_ref().is_some_and(is_plain);
            let (h, moment) = self.moment(&draft.graph, &site, &chosen, corrects, context)?;
            let old: Vec<Part> =
                chosen.iter().map(|&k| draft.graph.weight(site.maps[k].0).map.clone()).collect();
            let name = &graph.weight(site.maps[chosen[0]].0).name;
            let new =
                quantizer.sum(&old, Errors { h: h.as_ref(), ..Errors::default() }).map_err(|e| e.of(name))?;
            errors.push(format!("{} {}", site.name, relative_error(name, &old, &new, h.as_ref())?));
            let maps: Vec<(usize, Part)> = chosen.iter().copied().zip(new.iter().cloned()).collect();
            let bias = match &moment {
                Some(moment) if corrects => corrected_bias(&draft.graph, &site, &maps, [moment.mean(); 2])?,
                _ => None,
            };
            for (id, map) in maps.into_iter().map(|(k, m)| (site.maps[k].0, m)).chain(bias) {
                draft.set(id, map);
            }
        }
        drop(quantizer);
        if self.gptq {
            draft.refit_output(graph, self.refit_rounds, INSTEAD, context)?;
        }
        if self.f16_biases {
            halve_biases(&self.target, &mut draft)?;
        }
        if errors.is_empty() {
            return Ok(Outcome::NoEffect("no layer multiplies with a weight of the target".into()));
        }
        set_activations(self.activations, &mut draft)?;
        let note = format!("squared error relative to the outputs: {}", errors.join(", "));
        Ok(Outcome::Patch(draft.into_patch(note)))
    }
}

/// `map`, dense or sparse, in codes with the width and grouping of `like`, for products with the same activations. `h`: the second moment of its
/// inputs, for error feedback.
pub(crate) fn requantized(
    map: LinearMap,
    like: &Quantized,
    h: Option<&Hessian>,
    name: &str,
) -> Result<LinearMap, PassError> {
    let format = like.format();
    let h = h.filter(|_| !format.is_fine());
    let options = QuantizeOptions {
        group: match like.granularity() {
            Granularity::Row => None,
            Granularity::Group(n) => Some(n),
        },
        f16_scales: like.scales().dtype() == DType::F16,
        asymmetric: like.zero_points().is_some(),
        ..QuantizeOptions::new(format, h.is_some())
    };
    let mut quantizer = Quantizer::new(Bits { options, steps: Steps::unwatched() });
    let new = quantizer.sum(&[map.into()], Errors { h, ..Errors::default() }).map_err(|e| e.of(name))?;
    Ok(SetActivations::new(like.activations()).set(&new[0]).into_map())
}

/// Sets how the products of the changed maps take their vectors. A table that is only read keeps its parts, except for those that a product uses too.
fn set_activations(activations: Activations, draft: &mut Draft) -> Result<(), PassError> {
    let Draft { graph, changed } = draft;
    let is_product = |s: &Site| !matches!(s.kind, SiteKind::Embedding { .. });
    let products: Vec<WeightId> =
        sites(graph)?.iter().filter(|s| is_product(s)).flat_map(|s| s.maps.iter().map(|m| m.0)).collect();
    let mut setter = SetActivations::new(activations);
    let (products, others): (Vec<WeightId>, Vec<WeightId>) =
        changed.iter().partition(|&id| products.contains(id));
    for (id, is_product) in products.iter().map(|id| (*id, true)).chain(others.iter().map(|id| (*id, false)))
    {
        let map = &graph.weight(id).map;
        if is_product || setter.has_met_part_of(map) {
            let map = setter.set(map);
            graph.set_weight(id, map).expect("of the same shape");
        }
    }
    Ok(())
}

/// Codes of codes would hide a wrong order of passes.
fn refuse_quantized(graph: &Graph, targets: &[WeightId]) -> Result<(), PassError> {
    fn found(map: &LinearMap) -> Option<String> {
        match map {
            LinearMap::Quantized(_) => Some(describe(map)),
            _ => map.children().iter().find_map(|(name, c)| Some(format!("{} in its {name}", found(c)?))),
        }
    }
    let rest: Vec<&str> = targets
        .iter()
        .filter(|id| found(&graph.weight(**id).map).is_none())
        .map(|id| graph.weight(*id).name.as_str())
        .collect();
    for id in targets {
        let weight = graph.weight(*id);
        if let Some(found) = found(&weight.map) {
            let others = match rest.is_empty() {
                true => String::new(),
                false => format!(", or leave it out: target={}", rest.join("|")),
            };
            let why = format!("it is quantized already; run decode(target={}) first{others}", weight.name);
            return Err(PassError::Representation { weight: weight.name.clone(), found, why });
        }
    }
    Ok(())
}

/// The mean squared error of a site's outputs, relative to their mean square.
fn relative_error(name: &str, old: &[Part], new: &[Part], h: Option<&Hessian>) -> Result<String, PassError> {
    let (old, rows, cols) = stacked(name, old)?;
    let (new, ..) = stacked(name, new)?;
    let total = |a: &[f32], b: &[f32]| -> Result<f64, PassError> {
        let errors = row_errors(a, b, [rows, cols], h);
        Ok(errors.map_err(|source| PassError::Solve { weight: name.to_string(), source })?.iter().sum())
    };
    let (error, size) = (total(&old, &new)?, total(&old, &vec![0.0; old.len()])?);
    Ok(format!("{:.1e}", if size > 0.0 { error / size } else { 0.0 }))
}

/// Maps side by side.
fn stacked(name: &str, maps: &[Part]) -> Result<(Vec<f32>, usize, usize), PassError> {
    let rows = maps[0].shape()[0];
    let parts = maps.iter().map(|m| Ok((dense_map(name, m)?, m.shape()[1])));
    let parts = parts.collect::<Result<Vec<_>, PassError>>()?;
    let cols = parts.iter().map(|(_, c)| c).sum();
    let row = |i: usize| parts.iter().flat_map(move |(data, c)| data[i * c..(i + 1) * c].iter().copied());
    Ok(((0..rows).flat_map(row).collect(), rows, cols))
}

/// Converts vectors of the target to f16, if every element fits.
fn halve_biases(target: &Target, draft: &mut Draft) -> Result<(), PassError> {
    for id in target.weights(&draft.graph)? {
        let weight = draft.graph.weight(id);
        let LinearMap::Dense(tensor) = &*weight.map else { continue };
        if tensor.shape().len() != 1 || tensor.dtype() != DType::F32 {
            continue;
        }
        let error = |e: lstmc_frontend::tensor::TensorError| PassError::Map {
            weight: weight.name.clone(),
            source: e.into(),
        };
        let halves: Vec<f16> = tensor.f32s().map_err(error)?.iter().map(|&x| f16::from_f32(x)).collect();
        if halves.iter().all(|h| h.is_finite()) {
            let tensor = Tensor::from_f16(tensor.shape(), halves).map_err(error)?;
            draft.set(id, tensor.into());
        }
    }
    Ok(())
}
