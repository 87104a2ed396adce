//! `bench assign`: what each strategy in the box takes, moves and leaves uneven, at two sizes.

use std::time::Instant;

use serde::Serialize;
use tumen_core::assignment::scenarios::{self, Event, LARGE, SMALL, Size};
use tumen_core::assignment::{AssignError, Certificate, Strategy, strategies};

/// One strategy's answer to one event.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The strategy.
    pub(crate) strategy: &'static str,
    /// What happened.
    pub(crate) event: &'static str,
    /// How large the cluster was before.
    #[serde(flatten)]
    pub(crate) size: Size,
    /// Milliseconds, the best of several runs.
    pub(crate) ms: f64,
    /// What any strategy that is even before and after must move, where that is known.
    pub(crate) must: Option<u64>,
    /// What it cost, counted by other code.
    #[serde(flatten)]
    pub(crate) certificate: Certificate,
}

/// Measures all strategies at all events, in two sizes.
pub(crate) fn measure() -> Result<Vec<Row>, AssignError> {
    let mut rows = Vec::new();
    for size in [SMALL, LARGE] {
        for name in strategies::NAMES {
            let Ok(strategy) = strategies::by_name(name) else { continue };
            for event in Event::ALL {
                rows.push(row(name, strategy.as_ref(), size, event)?);
            }
        }
    }
    Ok(rows)
}

fn row(name: &'static str, strategy: &dyn Strategy, size: Size, event: Event) -> Result<Row, AssignError> {
    let scenario = scenarios::scenario(strategy, size, event)?;
    let runs = if size.nodes < 100 { 30 } else { 5 };
    let mut ms = f64::MAX;
    let mut layout = None;
    for _ in 0..runs {
        let start = Instant::now();
        let answer = strategy.assign(&scenario.problem())?;
        ms = ms.min(start.elapsed().as_secs_f64() * 1e3);
        layout = Some(answer);
    }
    let figures = layout.map(|layout| scenario.figures(&layout));
    let certificate = figures.map(|figures| figures.certificate).unwrap_or_default();
    Ok(Row { strategy: name, event: event.name(), size, ms, must: scenario.unavoidable(), certificate })
}
