//! docs/benchmark.md: what stands between its marks is written by a run, the rest by people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Results, table, targets};

const END: &str = "<!-- end of results -->";

/// Puts the text between the page's marks, the first of which is `<!-- mark -->`.
pub(crate) fn fill(page: &Path, mark: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- {mark} -->");
    let old = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let lacks = || format!("{} lacks `{begin}` or `{END}`", page.display());
    let (head, rest) = old.split_once(&begin).with_context(lacks)?;
    let (_, tail) = rest.split_once(END).with_context(lacks)?;
    fs::write(page, format!("{head}{begin}\n\n{text}\n{END}{tail}"))?;
    Ok(())
}

/// `plots`: the folder of the plots as the page names it.
pub(super) fn results(results: &Results, page: &Path, plots: &str) -> Result<()> {
    let mut out = format!("{}\n", table::of_run(&results.made));
    write!(out, "## Targets\n\n{}\n## Results\n", targets::table(results))?;
    for outcome in &results.outcomes {
        let alt = &outcome.title;
        write!(out, "\n{}\n![{alt}]({plots}/{}.svg)\n", table::of_outcome(outcome), outcome.id)?;
    }
    fill(page, "results: written by `make bench`", &out)
}
