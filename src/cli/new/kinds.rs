//! `new --add-kind`: another resource in a project that `new` has made.

use std::{fs, path::Path};

use super::{files, names::Names};
use crate::app::exit::{Exit, Failure};

/// Line of `src/lib.rs` before which the module of a new kind is declared.
const MODULES: &str = "// --add-kind: modules";
/// Line before which the definition of a new kind is listed.
const DEFINITIONS: &str = "// --add-kind: definitions";
/// Line before which the controllers of a new kind are added.
const CONTROLLERS: &str = "// --add-kind: controllers";

/// Adds the kind to the project in `folder`, in the API group of the project or in `group`. Returns what a
/// person does next.
///
/// # Errors
///
/// A [`Failure`], and the project is unchanged, if the folder has no such project, or if the kind is wrong or
/// exists already.
pub(super) fn add(folder: &Path, kind: &str, group: Option<&str>) -> Result<String, Failure> {
    let lib = folder.join("src/lib.rs");
    let text = fs::read_to_string(&lib).map_err(|error| {
        Failure::caused(Exit::Usage, &format!("reading {}", lib.display()), &error)
            .try_this("run this in the folder of a project that `bellwether new` has made, or name it with --dir")
    })?;
    let project = name_of_project(folder)?;
    let group = match group {
        Some(group) => group.to_owned(),
        None => group_of_project(folder)?,
    };
    let names =
        Names::new(&project, &group, kind).map_err(|problem| Failure::new(Exit::Usage, problem))?;
    let module = &names.module;
    let source = folder.join(format!("src/{module}.rs"));
    if source.exists() || text.contains(&format!("mod {module};")) {
        return Err(Failure::new(
            Exit::Usage,
            format!("--add-kind {kind:?}: {} exists already", source.display()),
        )
        .try_this("choose another kind"));
    }
    let mut text = text;
    for (mark, line) in [
        (MODULES, format!("pub mod {module};")),
        (DEFINITIONS, format!("{module}::{kind}::crd(),")),
        (CONTROLLERS, format!(".with({module}::controllers)")),
    ] {
        text = inserted(&text, mark, &line).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{} has no line {mark:?}", lib.display()))
                .try_this("put the line back where the new kind belongs, as in a new project")
        })?;
    }
    let resource = files::PROJECT.iter().find(|(path, _)| *path == "src/website.rs");
    let (_, resource) = resource.expect("a project has a resource");
    let writing = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| {
            Failure::caused(Exit::Local, &format!("writing {}", path.display()), &error)
        })
    };
    writing(&source, &names.in_place_of_website(resource))?;
    writing(&lib, &text)?;
    Ok(format!(
        "The kind {kind} is in {}, and {} lists it.\n\n  make manifests    # definition and roles, for the chart\n  \
         make test\n",
        source.display(),
        lib.display()
    ))
}

/// The text with `line` before the line that contains `mark`, indented like it.
fn inserted(text: &str, mark: &str, line: &str) -> Option<String> {
    let at = text.find(mark)?;
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent = &text[begin..at];
    Some(format!("{}{indent}{line}\n{}", &text[..begin], &text[begin..]))
}

/// Name of the package in that folder.
fn name_of_project(folder: &Path) -> Result<String, Failure> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::caused(Exit::Usage, &format!("reading {}", path.display()), &error)
    })?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.map(str::to_owned).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("{} has no line `name = \"…\"`", path.display()))
            .try_this("name the folder of a project that `bellwether new` has made with --dir")
    })
}

/// API group of the first resource of the project.
fn group_of_project(folder: &Path) -> Result<String, Failure> {
    let none = || {
        Failure::new(Exit::Usage, "no source of the project has a line `group = \"…\"`")
            .try_this("name the API group of the new kind with --group")
    };
    let sources = fs::read_dir(folder.join("src")).map_err(|_| none())?;
    let mut paths: Vec<_> = sources.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let group = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("group = \""))?;
        line.split('"').next().map(str::to_owned)
    };
    paths.iter().find_map(group).ok_or_else(none)
}
