"""`kubectl netpol-ebpf`: flags in, one verb, exit code out. No logic here."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Annotated, Any

import typer

from kubectl_netpol.completing import Action
from kubectl_netpol.errors import ExitCode, Interrupted, NetpolError, UsageError
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.options import (
    Common,
    capture_flags,
    check_flags,
    cleanup_flags,
    common_flags,
    explain_flags,
    version_flags,
)

PROGRAM = "kubectl netpol-ebpf"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name=PROGRAM,
    help="Show what a NetworkPolicy really is in the kernel of an Amazon EKS node: the YAML, what was "
    "resolved from it, and the eBPF programs and maps that packets meet.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Pod = Annotated[
    str,
    typer.Argument(
        metavar="POD",
        help="pod/NAME, NAMESPACE/NAME, or deploy/, rs/, sts/, ds/, job/, svc/NAME with exactly one pod. "
        "pod/NAME also stands for the only pod whose name is NAME-…",
    ),
]
DirectionFlag = Annotated[str, typer.Option("--direction", help="ingress, egress or both: always the pod's direction.")]


@app.command()
@explain_flags
def explain(
    common: Common,
    pod: Pod,
    direction: DirectionFlag = "both",
    source: Annotated[
        str | None,
        typer.Option("--from", help="The other end, opening a connection to POD: pod, node/NAME or address."),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option("--to", help="The other end, which POD connects to: pod, node/NAME, svc/NAME or address."),
    ] = None,
    port: Annotated[str, typer.Option("--port", help="Destination port: 80, 80/TCP, 53/UDP, 9/SCTP or icmp.")] = "",
    source_port: Annotated[
        int | None,
        typer.Option(
            "--source-port",
            min=1,
            max=65535,
            help="Judge the flow from this source port, with what conntrack knows of it; without: a new flow.",
        ),
    ] = None,
    ask_kernel: Annotated[
        bool,
        typer.Option(
            "--ask-kernel",
            help="Also let the loaded program itself decide, with a test packet that goes nowhere. This WRITES ON THE "
            "NODE: one record to the agent's policy events, which the agent logs as a flow, and on allow one "
            "conntrack entry from a source port that no flow uses, which is removed at once.",
        ),
    ] = False,
    api_only: Annotated[
        bool,
        typer.Option(
            "--api-only",
            help="Answer from the API objects alone: policies, PolicyEndpoints, and the maps that the agent should "
            "write. No debug pod is made and no node is read; what the kernel does stays unknown.",
        ),
    ] = False,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            help="What if the policies of this YAML file or directory were applied; - is stdin; repeatable. "
            "Nothing is applied.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="What if this policy were removed: NAME, NAMESPACE/NAME, networkpolicy/NAME, anp/NAME or cnp/NAME; "
            "repeatable. Nothing is removed.",
        ),
    ] = None,
) -> None:
    """Say what the policies mean for a pod or a flow, at every layer, and where two layers differ.

    Without --from and --to: both directions of the pod, YAML rules beside PolicyEndpoint and kernel map.
    With one of them: the verdict for that flow. Exit code 0: the flow is allowed, or the pod's layers agree;
    1: the flow is dropped, or the pod's layers differ; 3: could not be decided.

    With -f or --without: the same as if those policies were applied or removed, and which of the pod's established
    flows they would deny, at either end. Exit code 1 then: the flow would be dropped, or established flows denied.
    """
    from kubectl_netpol import verbs
    from kubectl_netpol.diagnose.plan import Question

    for flag, value in (("--from", source), ("--to", destination)):
        if value == "":
            raise UsageError(f"{flag} is empty")
    for flag, values in (("--file", file), ("--without", without)):
        if "" in (values or ()):
            raise UsageError(f"{flag} is empty")
    question = Question(
        pod, _directions(direction), source or "", destination or "", port, source_port, ask_kernel, api_only
    )
    verbs.explain(common, question, file or (), without or ())


@app.command()
@common_flags
def maps(common: Common, pod: Pod, direction: DirectionFlag = "both") -> None:
    """Show a pod's host veth, tc filters, eBPF programs and the decoded contents of their maps."""
    from kubectl_netpol import verbs

    verbs.maps(common, pod, _directions(direction))


@app.command()
@check_flags
def check(
    common: Common,
    pod: Annotated[
        str,
        typer.Argument(
            metavar="[POD]",
            show_default=False,
            help="pod/NAME or what else `explain` takes; without it, all pods asked for.",
        ),
    ] = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Pods of all namespaces.")] = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Pods with these labels: app=web,tier!=db.")] = "",
    node: Annotated[str, typer.Option("--node", help="Pods of this node, of all namespaces.")] = "",
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Exit code 1 from this severity on: error or warning.")
    ] = "error",
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Leave this code out, such as NPE306; repeatable.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Nodes that are read at once.")] = 4,
    wait: Annotated[
        str,
        typer.Option(
            "--wait",
            help="With POD: wait this long, such as 60s, until its policies are in force in the kernel. Exit code 0 as "
            "soon as they are, 1 if they are not by then.",
        ),
    ] = "",
    api_only: Annotated[
        bool, typer.Option("--api-only", help="Look at the API objects alone: no debug pods are made, no node is read.")
    ] = False,
) -> None:
    """Name what is wrong with a pod, a namespace or the whole cluster: layers side by side, findings with their remedy.

    One row a pod: how many policies select it, its PolicyEndpoints, whether the maps are as they should be, whether
    that is what is attached, its pod state. One debug pod a node, read once for all its pods. Without POD, -A, -l or
    --node: the pods of the namespace. Exit code 0: nothing at the threshold; 1: a finding at it; 3: not all could be
    read, and nothing was found.
    """
    from kubectl_netpol import checking

    asked = checking.Asked(pod, all_namespaces, selector, node, fail_on, tuple(ignore or ()), parallel, wait, api_only)
    checking.check(common, asked)


@app.command()
@common_flags
def doctor(
    common: Common,
    node: Annotated[
        str | None, typer.Option("--node", help="Where to start the debug pod; without: a ready node.")
    ] = None,
    api_only: Annotated[bool, typer.Option("--api-only", help="Start no debug pod.")] = False,
) -> None:
    """Say whether the cluster can enforce NetworkPolicies, and whether you can read what it does.

    One line a topic, ok, failed or unknown: versions and known defects, the add-on's flags, CRDs, rights, the agent on
    its nodes, enforcing mode, what gets in its way, your own rights, and one debug pod on one node, which is removed
    again. Each failed line has the command that mends it. Exit code 0: all ok; 1: something failed; 3: nothing failed,
    and not all could be told.
    """
    from kubectl_netpol import doctoring

    if node == "":
        raise UsageError("--node is empty")
    doctoring.doctor(common, doctoring.Asked(node or "", api_only))


@app.command()
@common_flags
def conntrack(common: Common, pod: Pod, direction: DirectionFlag = "both") -> None:
    """Show a pod's established flows, and which of them the rules of now would drop.

    Packets of an established flow pass without a look at the rules as long as the pod state stays the one that it was
    made under: a change of the rules alone does not end it. Exit code 0: all was read and judged; 3: not all.
    """
    from kubectl_netpol import verbs

    verbs.conntrack(common, pod, _directions(direction))


@app.command()
@common_flags
def drops(
    common: Common,
    pod: Pod,
    since: Annotated[
        str, typer.Option("--since", help="How far back, such as 10m; a bundle has the last hour.")
    ] = "1h",
    everything: Annotated[bool, typer.Option("--all", help="Also flows that were accepted.")] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go on with new ones until Ctrl-C, through one debug pod that stays for so long."
        ),
    ] = False,
) -> None:
    """Show what the node's agent logged as dropped for a pod, and what the maps of now say of each of these flows.

    Names instead of addresses, and one kind for each flow: still denied and by what, start-up, stale reply, noise, or
    allowed now (docs/drops.md). The agent logs flows only where policy event logs are enabled: where they are not, the
    answer says so. Exit code 0: no drop is still denied; 1: one is; 3: the log could not be read, or not be judged.
    """
    from kubectl_netpol import dropping

    dropping.drops(common, dropping.Asked(pod, since, everything, follow))


@app.command()
@capture_flags
def capture(
    common: Common,
    file: Annotated[
        str, typer.Option("--file", "-f", help="The bundle file to write (.tar.gz); - is stdout.", show_default=False)
    ],
    pod: Annotated[
        str,
        typer.Argument(
            metavar="[POD]",
            show_default=False,
            help="pod/NAME or what else `explain` takes; without it, the namespace.",
        ),
    ] = "",
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="The whole cluster: every node is read.")
    ] = False,
    node: Annotated[str, typer.Option("--node", help="This node, with the pods of all namespaces on it.")] = "",
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Nodes that are read at once.")] = 4,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact",
            help="Write other names of pods, namespaces, nodes, policies and labels, and other addresses: the same "
            "ones everywhere, so that the bundle still gives the same verdicts. Names of AWS's and Kubernetes' own "
            "parts stay.",
        ),
    ] = False,
    redact_names: Annotated[
        str, typer.Option("--redact-names", help="With --redact: write to this file which name stands for which.")
    ] = "",
    api_only: Annotated[
        bool, typer.Option("--api-only", help="API objects alone: no debug pods are made, no node is read.")
    ] = False,
) -> None:
    """Write all that support asks for to one file: policies, PolicyEndpoints, and what the nodes really hold.

    Of a POD, the namespace (-n), a node (--node) or the cluster (-A). The policies and settings of the cluster, and of
    each node the tc filters, programs, maps, pod states, conntrack, and the agent's log; readable by hand, and by every
    verb with --bundle. No Secrets, no environment values but settings of the VPC CNI, no commands of pods. Exit code 0:
    all was read; 3: a node could not be read.
    """
    from kubectl_netpol import capturing

    if not file:
        raise UsageError("--file is empty")
    capturing.capture(
        common, capturing.Asked(pod, file, all_namespaces, node, parallel, api_only, redact, redact_names)
    )


@app.command()
@cleanup_flags
def cleanup(
    common: Common,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete", help="Delete the pods that nobody can use any more: ended, or long past their deadline."
        ),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="With --delete: also running and kept ones. CUTS OFF whoever is reading a node through them.",
        ),
    ] = False,
) -> None:
    """List the debug pods of this tool that are still in the cluster, with age and owner; delete them with --delete.

    Each run deletes its own pod, and the server ends it at its deadline if the run was killed; what is left then is an
    ended pod object. Pods that only carry the tool's label are shown and never deleted. Exit code 0: listed, or all
    deleted that were to go; 3: they could not be listed, or one could not be deleted.
    """
    from kubectl_netpol import cleaning

    cleaning.cleanup(common, cleaning.Asked(delete, everything))


@app.command()
def completion(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="install: write the file into a directory of PATH, and say which; uninstall: remove it again; script: "
            "print it.",
        ),
    ],
    directory: Annotated[
        str | None,
        typer.Option(
            "--dir", help="The directory; without it that of the plugin, or one of your home that is on PATH."
        ),
    ] = None,
) -> None:
    """Let kubectl complete verbs, flags and names behind `kubectl netpol-ebpf`.

    kubectl 1.26 and newer runs the file kubectl_complete-netpol_ebpf for that. Installations by pip and pipx bring it;
    krew does not, so `completion install` writes it (docs/completion.md). A file of others is never overwritten or
    removed. Exit code 0: it is there, or gone; 2: there is no directory for it; 3: it could not be written or removed.
    """
    from kubectl_netpol import completing

    if directory == "":
        raise UsageError("--dir is empty")
    completing.completion(action, directory or "")


@app.command()
@version_flags
def version(
    common: Common,
    client: Annotated[bool, typer.Option("--client", help="This plugin alone: no cluster is asked.")] = False,
) -> None:
    """Print the versions of this plugin, of the API server, of the VPC CNI and of its agent.

    With a kubeconfig: two requests, with 3 s each. What cannot be read is unknown, with the reason on stderr. Exit code
    0, also then; 2: a flag names a context that does not exist.
    """
    from kubectl_netpol import versioning

    versioning.version(common, client)


def _directions(text: str) -> tuple[Direction, ...]:
    if text == "both":
        return tuple(Direction)
    try:
        return (Direction(text),)
    except ValueError:
        raise UsageError(f'--direction "{text}" is not one of ingress, egress, both') from None


def run(arguments: list[str]) -> int:
    """Run one command line: every way it can end becomes one exit code, and at most two lines on stderr.

    No traceback is printed unless NETPOL_EBPF_DEBUG is set.
    """
    _signals_are_exceptions()
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except NetpolError as error:
        return _say(error.line, error.hint, error.exit_code)
    except (KeyboardInterrupt, Interrupted):
        return _say("interrupted", "", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # `| head` closed the pipe: what was read was read. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if os.environ.get("NETPOL_EBPF_DEBUG"):
            raise
        if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
            # Of stdout, which has no name; whoever opens a file says which one it was.
            return _say(f"the output could not be written: {error.strerror}", "", ExitCode.UNDECIDED)
        if _interrupted(error):
            return _say("interrupted", "", ExitCode.INTERRUPTED)
        what = f"internal error: {type(error).__name__}: {error}"
        return _say(what, "please report it; NETPOL_EBPF_DEBUG=1 shows the traceback", ExitCode.UNDECIDED)


def _interrupted(error: BaseException | None) -> bool:
    """Whether a signal is behind it: one that strikes while a thread waits makes an error of the lock that it holds."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | Interrupted):
            return True
        error = error.__context__
    return False


def _signals_are_exceptions() -> None:
    """SIGTERM and SIGHUP end the run like Ctrl-C: one line, exit code 130, nothing left behind."""
    import signal
    import threading

    def arrived(number: int, frame: object) -> None:
        raise Interrupted

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
                signal.signal(getattr(signal, name), arrived)


def _invoke(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as ended:
        # The option parser makes exit code 1 of a closed pipe, which would mean "denied" here.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise
    except Exception as error:
        # Usage errors of the option parser (typer brings its own copy of click, so ask by shape).
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)
                return int(ExitCode.USAGE)
            verb = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
            return _say(str(error.format_message()), f"see {verb} --help", ExitCode.USAGE)
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from error
        raise
    code = int(result or 0)
    if code == ExitCode.INTERRUPTED:
        # The option parser turns Ctrl-C into this exit code, without a word.
        raise KeyboardInterrupt
    return code


def _say(message: str, hint: str, code: ExitCode) -> int:
    from kubectl_netpol.report.text import clean

    # Where stderr takes nothing, the exit code is what is left to say.
    with contextlib.suppress(OSError):
        print(f"error: {clean(message)}", file=sys.stderr)
        if hint:
            print(f"hint: {clean(hint)}", file=sys.stderr)
    return int(code)
