"""Hostfiles and their filters: every bad line is named, good ones keep their order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.errors import SettingsError
from megatron.launcher.hostfile import Hosts, limit, parse_hostfile, read_hostfile, select

HOSTS = parse_hostfile("node1 slots=2\nnode2 slots=4\nnode3 slots=1\n")


def test_comments_and_blank_lines_and_order(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# all of them\n\nnode-b.cluster slots=4   # big\n  node_a\tslots=2\n")
    hosts = read_hostfile(file)
    assert list(hosts.slots.items()) == [("node-b.cluster", (0, 1, 2, 3)), ("node_a", (0, 1))]
    assert hosts.world_size == 6


def test_every_bad_line_is_named_with_its_place() -> None:
    text = "node1 slots=2\nnode2\nnode3 slots=two\nnode1 slots=4\nnode4 slot=1\nnode5 slots=0\n$(reboot) slots=1\n"
    with pytest.raises(SettingsError) as caught:
        parse_hostfile(text, "hosts.txt")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"hosts.txt:{number}" for number in range(2, 8)]
    for line, part in zip(lines, ["nothing", "'two'", "line 1", "'slot=1'", "'0'", "$(reboot)"], strict=True):
        assert part in line


@pytest.mark.parametrize(
    "line", ["-oProxyCommand=x slots=1", "a;b slots=1", "a slots=1 slots=2", "a slots=-1", "a slots=1.5"]
)
def test_lines_that_other_programs_would_misread_are_refused(line: str) -> None:
    with pytest.raises(SettingsError, match="hostfile:1"):
        parse_hostfile(line)


def test_an_empty_or_missing_hostfile_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="slots=8"):
        parse_hostfile("# nothing\n")
    with pytest.raises(SettingsError, match=r"nowhere.*No such file"):
        read_hostfile(tmp_path / "nowhere")


def test_include_and_exclude() -> None:
    assert select(HOSTS, include="node3@node2:3,0").slots == {"node2": (0, 3), "node3": (0,)}
    assert select(HOSTS, exclude="node2@node1:0").slots == {"node1": (1,), "node3": (0,)}
    assert select(HOSTS) is HOSTS


@pytest.mark.parametrize(
    ("include", "exclude", "part"),
    [
        ("node1", "node2", "both"),
        ("nod1", None, "Did you mean 'node1'"),
        ("node1:2", None, "no slot 2"),
        ("node1:a", None, "'a'"),
        (None, "node1@node2@node3", "no host"),
    ],
)
def test_filters_that_fit_nothing(include: str | None, exclude: str | None, part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        select(HOSTS, include, exclude)


def test_limits() -> None:
    assert limit(HOSTS, num_nodes=2, num_gpus=1).slots == {"node1": (0,), "node2": (0,)}
    assert limit(HOSTS, num_nodes=-1, num_gpus=None).slots == HOSTS.slots
    with pytest.raises(SettingsError, match="only 3 hosts"):
        limit(HOSTS, num_nodes=4)
    with pytest.raises(SettingsError, match="node1 has 2, node3 has 1"):
        limit(HOSTS, num_gpus=4)


@given(st.text(max_size=80))
def test_any_text_is_either_hosts_or_a_settings_error(text: str) -> None:
    try:
        hosts = parse_hostfile(text)
    except SettingsError as error:
        assert "hostfile:" in str(error)
    else:
        assert isinstance(hosts, Hosts) and hosts.world_size > 0
