"""Real agents, each connected by `deltaloop connect`, do a small task in a repository, while all is well and while not.

The model is too small for the task, so a proxy makes each request ask for the one answer that does it; the daemon, its
model and its grammars do the rest for real. The same proxy does the harm: see `tests.support.fault_proxy`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import client_installs
from tests.support.agent_runs import AGENTS, COMMAND, TEXT, Agent, Run, run_agent
from tests.support.daemon import Daemon, running_daemon
from tests.support.fault_proxy import NO_FAULT, RETRY_AFTER_SECONDS, Fault, FaultProxy, fault_proxy

pytestmark = pytest.mark.agents

SMALL_CONTEXT = 256
CUT_AFTER = 8  # pieces: in the middle of the command, or of the edit
FAULTS = {
    "well": NO_FAULT,
    "refused once": Fault(refused=True),
    "cut once": Fault(in_pieces=True, num_pieces=CUT_AFTER),
    "in pieces": Fault(in_pieces=True),
    "a silent minute": Fault(silent_seconds=60),
}


@pytest.fixture(scope="module")
def small_daemon() -> Iterator[Daemon]:
    with running_daemon("--max-model-len", str(SMALL_CONTEXT)) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README").write_text("A repository.\n")
    for arguments in (
        ["init", "-q"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@example.org"],
        ["add", "."],
        ["commit", "-q", "-m", "Begin"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture(params=AGENTS, ids=[agent.name for agent in AGENTS])
def agent(request: pytest.FixtureRequest) -> Agent:
    agent: Agent = request.param
    if reason := client_installs.why_missing(agent.package):
        pytest.skip(f"{agent.name} is not installed: {reason}")
    return agent


def files_of(repository: Path) -> dict[str, str]:
    """What stands in the repository beside README, and what agents keep there for themselves."""
    files = [path for path in repository.iterdir() if not path.name.startswith(".") and path.name != "README"]
    return {path.name: path.read_text() for path in files}


def said(run: Run) -> str:
    return f"exit code {run.code}\n{run.output}\n{run.errors}"


def check_done(agent: Agent, run: Run, repository: Path) -> None:
    assert run.code == 0, said(run)
    assert files_of(repository) == {"done.txt": "hi\n"}, said(run)
    assert TEXT in run.report.text, said(run)
    if run.report.commands is not None:
        assert COMMAND in run.report.commands[-1], said(run)


def check_requests(agent: Agent, proxy: FaultProxy, fault: Fault) -> None:
    is_sent_again = fault.refused or fault.is_cut
    *first, call = proxy.turns("call")
    text, *more = proxy.turns("text")
    assert not more or agent.may_call_again
    assert len(first) == is_sent_again
    assert len(proxy.turns("side")) == agent.num_side_requests
    assert {exchange.status for exchange in proxy.exchanges if exchange not in first} == {200}
    if agent.has_history:
        num_half_calls = agent.dialect.num_results(text.asked) - 1
        assert num_half_calls == 0 or (fault.is_cut and agent.may_keep_half_call and num_half_calls == 1)
        before, after = agent.dialect.usage(call.events), agent.dialect.usage(text.events)
        read = before.prompt if num_half_calls else before.prompt + before.answer
        assert after.prompt > after.cached >= read - 4


def check_harm(agent: Agent, proxy: FaultProxy, fault: Fault) -> None:
    """That it was done, or the test would say nothing."""
    first, *later = [exchange for exchange in proxy.exchanges if exchange.turn != "side"]
    if fault.refused:
        assert first.status == 503
        assert later[0].began - first.began > RETRY_AFTER_SECONDS - 0.1
    if fault.silent_seconds:
        assert later[0].began - first.began > fault.silent_seconds
    if fault.in_pieces and agent.streams:
        assert first.num_pieces == CUT_AFTER if fault.is_cut else first.num_pieces > CUT_AFTER


@pytest.mark.parametrize("name", FAULTS)
def test_a_task_is_done_whatever_happens_on_the_way(
    daemon: Daemon, agent: Agent, name: str, repository: Path, home: Path
) -> None:
    fault = FAULTS[name]
    if fault.in_pieces and not fault.is_cut and not agent.streams:
        pytest.skip(f"{agent.name} does not stream")
    with fault_proxy(daemon.url, agent.dialect, agent.held, fault) as proxy:
        run = run_agent(agent, proxy.url, repository, home)
    check_harm(agent, proxy, fault)
    if fault.is_cut and not agent.goes_on_after_cut:
        assert run.code != 0, said(run)
        assert files_of(repository) == {}
        return
    check_done(agent, run, repository)
    check_requests(agent, proxy, fault)


def test_a_prompt_that_is_too_long_ends_the_run_with_the_reason(
    small_daemon: Daemon, agent: Agent, repository: Path, home: Path
) -> None:
    """The agent was told of a longer context than the daemon has, or it would shorten the conversation before."""
    with fault_proxy(small_daemon.url, agent.dialect, agent.held) as proxy:
        run = run_agent(agent, proxy.url, repository, home, "--context", "131072")
    assert run.code == agent.overflow_code, said(run)
    assert agent.overflow in run.output + run.errors, said(run)
    assert len(proxy.turns("call")) == 1  # the same again would not fit either
    assert {exchange.status for exchange in proxy.exchanges} == {400}
    assert files_of(repository) == {}
