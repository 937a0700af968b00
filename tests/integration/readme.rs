use gapura::command::settings;

#[test]
fn the_readme_lists_every_setting() {
    let readme = include_str!("../../README.md");
    let table = readme.split("<!-- settings -->\n").nth(1);
    let table = table.and_then(|rest| rest.split("<!-- /settings -->").next());
    assert_eq!(
        table,
        Some(settings::reference().as_str()),
        "run `gapura config --reference`"
    );
}
