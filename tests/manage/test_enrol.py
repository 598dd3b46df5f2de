from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pstream.agents.credentials import Token
from p2pstream.config.load import load
from p2pstream.config.scalars import TokenHash
from p2pstream.config.write import toml_of_agent
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage import enrol

MAIN = 'include = ["agents.d/*.toml"]\n[server]\nstate_dir = "state"\n'
# An agent as a person might write it: other spacing, a comment.
BY_HAND = """
# the box under the stairs
[[agents]]
id   = "stairs"
token_hash = "sha256:{}"
""".format("a" * 64)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    file = tmp_path / "p2pstream.toml"
    file.write_text(MAIN)
    return file


def texts(folder: Path) -> dict[str, str]:
    """Every TOML file below a folder."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.toml*")}


def test_create_writes_one_file_that_declares_the_agent(main: Path) -> None:
    made = enrol.create(main, "attic", {"site": "home-lab", "empty": ""})
    assert made.file == main.parent / "agents.d" / "attic.toml"
    assert main.read_text() == MAIN
    assert made.file.read_text() == made.toml
    (agent,) = load(main).agents
    assert agent == made.agent
    assert (agent.name, agent.labels) == ("attic", {"site": "home-lab", "empty": ""})
    assert agent.token_hash == (TokenHash.of(made.secret.reveal()),)
    token = Token.parse(made.token)
    assert (token.agent_id, token.secret) == (agent.id, made.secret)
    assert token.ca_pin is not None
    assert made.secret.reveal() not in made.toml


def test_each_agent_has_a_file_and_a_secret_of_its_own(main: Path) -> None:
    first, second = (enrol.create(main, name, {}) for name in ("attic", "cellar"))
    assert {path.name for path in (main.parent / "agents.d").iterdir()} == {
        "attic.toml",
        "cellar.toml",
    }
    assert first.agent.id != second.agent.id
    assert first.secret != second.secret


@pytest.mark.parametrize(
    "include",
    [
        "",
        'include = ["more.toml"]\n',
        'include = ["agents.d/a*.toml"]\n',
        'include = ["*/*.toml"]\n',
        'include = ["agents.d/**/x.toml"]\n',
    ],
)
def test_without_an_included_folder_it_writes_nothing(tmp_path: Path, include: str) -> None:
    file = tmp_path / "p2pstream.toml"
    file.write_text(include)
    (tmp_path / "more.toml").write_text("")
    before = texts(tmp_path)
    made = enrol.create(file, "attic", {})
    assert made.file is None
    assert texts(tmp_path) == before
    file.write_text(f"{include}{made.toml}")
    assert load(file).agents == (made.agent,)


@pytest.mark.parametrize("pattern", ["*.toml", "one/two/*.toml", "{absolute}/*.toml"])
def test_the_folder_is_where_the_include_says(tmp_path: Path, pattern: str) -> None:
    file = tmp_path / "etc" / "p2pstream.conf"
    file.parent.mkdir()
    pattern = pattern.replace("{absolute}", str(tmp_path / "elsewhere"))
    file.write_text(f'include = ["{pattern}"]\n')
    made = enrol.create(file, "attic", {})
    assert made.file is not None and made.file.is_relative_to(tmp_path)
    assert load(file).agents == (made.agent,)


@pytest.mark.parametrize("name", ["", "a b", "../up", "ä", "-x", "a/b", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(main: Path, name: str) -> None:
    with pytest.raises(ValueError):
        enrol.create(main, name, {})
    assert texts(main.parent) == {"p2pstream.toml": MAIN}


def test_a_name_that_is_taken_is_refused(main: Path) -> None:
    made = enrol.create(main, "attic", {})
    for taken in ("attic", made.agent.id):
        with pytest.raises(CommandError, match="already"):
            enrol.create(main, taken, {})


def test_a_file_that_exists_is_not_touched(main: Path) -> None:
    file = main.parent / "agents.d" / "attic.toml"
    file.parent.mkdir()
    file.write_text("# mine\n")
    with pytest.raises(CommandError, match="exists already"):
        enrol.create(main, "attic", {})
    assert file.read_text() == "# mine\n"


def test_what_does_not_load_is_undone(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (main.parent / "agents.d").mkdir()

    def load_then_break(path: Path) -> object:
        """A neighbour breaks between the load before the change and the one after it."""
        config = load(path)
        (main.parent / "agents.d" / "broken.toml").write_text("x = 1\n")
        return config

    monkeypatch.setattr(enrol, "load", load_then_break)
    with pytest.raises(ConfigError, match="unknown key"):
        enrol.create(main, "attic", {})
    assert sorted(texts(main.parent)) == ["agents.d/broken.toml", "p2pstream.toml"]


def test_no_token_no_file(tmp_path: Path) -> None:
    """Where agents should dial is not known: better to hear that before a secret is lost."""
    file = tmp_path / "p2pstream.toml"
    file.write_text(f'{MAIN}[management]\nbind_address = ""\n')
    with pytest.raises(CommandError, match="public_url"):
        enrol.create(file, "attic", {})
    assert not (tmp_path / "agents.d").exists()


def test_rotation(main: Path) -> None:
    made = enrol.create(main, "attic", {"site": "x"})
    rotated = enrol.rotate(main, "attic")
    assert rotated.file == made.file
    (agent,) = load(main).agents
    hashes = [TokenHash.of(one.secret.reveal()) for one in (made, rotated)]
    assert list(agent.token_hash) == hashes
    assert Token.parse(rotated.token).agent_id == made.agent.id
    with pytest.raises(CommandError, match="finish-rotation"):
        enrol.rotate(main, "attic")
    file, _ = enrol.finish_rotation(main, made.agent.id)  # an id will do as well
    assert file == made.file
    assert list(load(main).agents[0].token_hash) == hashes[1:]
    with pytest.raises(CommandError, match="not being rotated"):
        enrol.finish_rotation(main, "attic")


CHANGES: dict[str, Callable[[Path, str], Path | None]] = {
    "rotate": lambda main, name: enrol.rotate(main, name).file,
    "finish_rotation": lambda main, name: enrol.finish_rotation(main, name)[0],
    "remove": lambda main, name: enrol.remove(main, name),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["p2pstream.toml", "agents.d/stairs.toml", "agents.d/all.toml"])
def test_what_a_person_wrote_is_never_rewritten(main: Path, change: str, where: str) -> None:
    text = BY_HAND
    if change == "finish_rotation":
        text = text.replace('"sha256', '["sha256').replace(
            'a"\n', 'a", "sha256:{}"]\n'.format("b" * 64)
        )
    file = main.parent / where
    file.parent.mkdir(exist_ok=True)
    file.write_text((MAIN if file == main else "") + text)
    before = texts(main.parent)
    assert CHANGES[change](main, "stairs") is None
    assert texts(main.parent) == before


def test_our_file_with_a_persons_line_is_that_persons(main: Path) -> None:
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    file.write_text(file.read_text() + "# moved to the new box\n")
    before = texts(main.parent)
    assert enrol.rotate(main, "attic").file is None
    assert enrol.remove(main, "attic") is None
    assert texts(main.parent) == before


def test_what_a_rotation_shows_for_a_hand_written_agent_is_what_to_write(main: Path) -> None:
    main.write_text(MAIN + BY_HAND)
    rotated = enrol.rotate(main, "stairs")
    assert rotated.toml == toml_of_agent(rotated.agent)
    main.write_text(MAIN + rotated.toml)
    assert load(main).agents == (rotated.agent,)


def test_our_file_is_found_under_another_name(main: Path) -> None:
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    moved = file.rename(file.with_name("zz.toml"))
    assert enrol.rotate(main, "attic").file == moved
    assert enrol.remove(main, "attic") == moved
    assert not moved.exists()


def test_a_rewrite_keeps_mode_and_leaves_nothing_beside(main: Path) -> None:
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    file.chmod(0o640)
    enrol.rotate(main, "attic")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == ["attic.toml"]


@pytest.mark.parametrize("change", ["rotate", "finish_rotation"])
def test_a_link_stays_one_and_what_it_leads_to_is_rewritten(main: Path, change: str) -> None:
    """As where a folder of a git checkout is linked into /etc."""
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    if change == "finish_rotation":
        enrol.rotate(main, "attic")
    kept = main.parent / "kept.txt"
    file.rename(kept)
    file.symlink_to("../kept.txt")
    assert CHANGES[change](main, "attic") == file
    assert file.is_symlink()
    (agent,) = load(main).agents
    assert kept.read_text() == toml_of_agent(agent)
    assert len(agent.token_hash) == (2 if change == "rotate" else 1)
    assert sorted(os.listdir(main.parent)) == ["agents.d", "kept.txt", "p2pstream.toml", "state"]
    assert os.listdir(file.parent) == ["attic.toml"]


def test_a_link_that_is_removed_leaves_what_it_leads_to(main: Path) -> None:
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    kept = file.rename(main.parent / "kept.txt")
    file.symlink_to(kept)
    assert enrol.remove(main, "attic") == file
    assert kept.exists() and not file.is_symlink()


@pytest.mark.parametrize(
    ("mode", "folder_mode"), [(0o644, 0o755), (0o640, 0o750), (0o600, 0o700), (0o664, 0o775)]
)
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_who_may_read_the_main_file_may_read_what_is_new(
    main: Path, mode: int, folder_mode: int, umask: int
) -> None:
    main.write_text(MAIN.replace("agents.d", "conf/agents.d"))
    main.chmod(mode)
    before = os.umask(umask)
    try:
        file = enrol.create(main, "attic", {}).file
    finally:
        os.umask(before)
    assert file is not None
    assert stat.S_IMODE(file.stat().st_mode) == mode
    for folder in (file.parent, file.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == folder_mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_what_is_new_has_the_main_files_owner(main: Path) -> None:
    os.chown(main, 0, 12345)
    file = enrol.create(main, "attic", {}).file
    assert file is not None
    assert {path.stat().st_gid for path in (file, file.parent)} == {12345}


def test_remove(main: Path) -> None:
    file = enrol.create(main, "attic", {}).file
    assert enrol.remove(main, "attic") == file
    assert load(main).agents == ()
    with pytest.raises(CommandError, match="there is no agent attic"):
        enrol.remove(main, "attic")


def test_an_agent_that_is_needed_is_not_removed(main: Path) -> None:
    made = enrol.create(main, "attic", {})
    main.write_text(
        MAIN
        + f"""
[[listeners]]
id = "web"
port = 8080
[[routes]]
id = "r"
listener_id = "web"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1"
transport = "agent"
agent_selector.match_labels = {{ "p2pstream.io/agent-id" = "{made.agent.id}" }}
[[expectations]]
request = "GET http://x/"
listener_id = "web"
expect_agent_in = ["{made.agent.id}"]
"""
    )
    before = texts(main.parent)
    with pytest.raises(ConfigError):
        enrol.remove(main, "attic")
    assert texts(main.parent) == before


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ([], {}),
        (["site=home"], {"site": "home"}),
        (["site="], {"site": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
    ],
)
def test_labels(given: list[str], labels: dict[str, str]) -> None:
    assert enrol.labels_from(given) == labels


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["site"], "site="),
        (["=x"], "key"),
        (["a=1", "a=2"], "twice"),
        (["p2pstream.io/x=1"], "p2pstream.io"),
        (["a=" + "x" * 257], "256"),
        (["ä=1"], "ä"),
    ],
)
def test_bad_labels(given: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        enrol.labels_from(given)
