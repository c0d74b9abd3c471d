use std::time::Duration;

use super::*;
use crate::app::args::StoreKind;

#[tokio::test]
async fn a_program_gives_its_name_to_its_cluster() {
    let settings = Settings::defaults("shop");
    assert_eq!(settings.cluster(), "shop");
    assert_eq!(settings.cluster.timeout, Duration::from_secs(2));
    assert_eq!(settings.cluster.store, None::<StoreKind>);
}

#[test]
fn texts_name_the_program_instead_of_bellwether() {
    let command = named(
        clap::Command::new("x").subcommand(
            clap::Command::new("drain").after_long_help("See `bellwether undrain ID`."),
        ),
        "shop",
    );
    let drain = command.find_subcommand("drain").expect("it is a subcommand");
    let help = drain.get_after_long_help().expect("it has a text").to_string();
    assert_eq!(help, "See `shop undrain ID`.");
}

#[test]
fn a_selector_is_refused_by_its_characters() {
    assert_eq!(selector("team in (a,b), tier!=c"), Ok("team in (a,b), tier!=c".to_owned()));
    for wrong in ["", "  ", "team=ä", "team=\"a\""] {
        assert!(selector(wrong).unwrap_err().contains("team=a"), "{wrong}");
    }
}

#[test]
fn objects_are_those_of_the_own_namespace_unless_all_are_asked_for() {
    let own = Settings::defaults("shop").objects;
    assert_eq!(own.scope("market"), Scope::namespace("market"));
    let all = ObjectArgs { all_namespaces: true, selector: Some("team=a".into()) };
    assert_eq!(all.scope("market"), Scope::all().labels("team=a"));
}
