//! `pangea config`.

use pangea_node::{Problem, Review, Severity, region_schema};
use serde::Serialize;

use crate::args::ConfigCheck;
use crate::exit::Exit;
use crate::{print, print_json};

/// What `--json` says about a file.
#[derive(Serialize)]
struct File<'a> {
    file: String,
    ok: bool,
    problems: &'a [Problem],
}

pub(crate) fn check(args: &ConfigCheck) -> anyhow::Result<Exit> {
    // One after the other: as root each is looked at as the OS user that it names.
    let reviews: Vec<Review> = args.files.iter().map(|path| Review::of_everything(path)).collect();
    if args.json {
        let file = |review: &Review| review.path.display().to_string();
        let files = reviews.iter().map(|review| File {
            file: file(review),
            ok: review.is_good(),
            problems: &review.problems,
        });
        print_json(&files.collect::<Vec<_>>())?;
    } else {
        reviews.iter().for_each(|review| print(&told(review)));
    }
    Ok(if reviews.iter().all(Review::is_good) { Exit::Done } else { Exit::Usage })
}

/// A line for each problem, and one for the file.
fn told(review: &Review) -> String {
    let file = review.path.display();
    let mut lines: String = review.problems.iter().map(|problem| format!("{file}:{problem}\n")).collect();
    let count = |severity| review.problems.iter().filter(|problem| problem.severity == severity).count();
    let counted = |number: usize, word: &str| match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut said = vec![if errors == 0 { "ok".to_owned() } else { counted(errors, "error") }];
    said.extend((warnings > 0).then(|| counted(warnings, "warning")));
    lines.push_str(&format!("{file}: {}\n", said.join(", ")));
    lines
}

pub(crate) fn schema() -> anyhow::Result<Exit> {
    print_json(&region_schema())?;
    Ok(Exit::Done)
}
