//! docs/benchmark.md: what stands between its marks is written by a run, the rest by people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Results, table, targets};

const BEGIN: &str = "<!-- results: written by `make bench` -->";
const END: &str = "<!-- end of results -->";

/// `plots`: the folder of the plots as the page names it.
pub(super) fn fill(results: &Results, page: &Path, plots: &str) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let lacks = || format!("{} lacks `{BEGIN}` or `{END}`", page.display());
    let (head, rest) = text.split_once(BEGIN).with_context(lacks)?;
    let (_, tail) = rest.split_once(END).with_context(lacks)?;
    let mut out = format!("{head}{BEGIN}\n\n{}\n", table::of_run(&results.made));
    write!(out, "## Targets\n\n{}\n## Results\n", targets::table(results))?;
    for outcome in &results.outcomes {
        let alt = &outcome.title;
        write!(out, "\n{}\n![{alt}]({plots}/{}.svg)\n", table::of_outcome(outcome), outcome.id)?;
    }
    write!(out, "\n{END}{tail}")?;
    fs::write(page, out)?;
    Ok(())
}
