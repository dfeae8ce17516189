"""The command line of the training job."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from fmnist.cli.options import failed, parse, print_settings
from fmnist.errors import ExitCode, JobError
from fmnist.report.markdown import summary
from fmnist.report.run import Run
from fmnist.settings import Settings

_PROGRAM = "python flows/train.py"


def run_training_command(
    run_job: Callable[[Settings], Run], arguments: Sequence[str] | None
) -> ExitCode:
    """Run the job once as the command line says; the last line on standard output sums it up."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        request = parse(sys.argv[1:] if arguments is None else arguments, _PROGRAM)
        if request.show_settings:
            print_settings(request)
            return ExitCode.OK
        run = run_job(request.settings)
    except JobError as error:
        if "\n" in str(error) and not error.run_id:  # Else the flow has logged it.
            sys.stderr.write(f"{error}\n")
        return _end(error.exit_code, failed(error))
    except KeyboardInterrupt:
        seconds = time.monotonic() - start
        return _end(ExitCode.INTERRUPTED, f"interrupted  after {seconds:.0f} s")
    except Exception as error:
        traceback.print_exc()
        return _end(ExitCode.DEFECT, f"defect  {type(error).__name__}: {error}".splitlines()[0])
    code = ExitCode.OK if run.verdict.promoted else ExitCode.REJECTED
    return _end(code, summary(run, time.monotonic() - start))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(code: ExitCode, line: str) -> ExitCode:
    sys.stdout.write(f"{line}\n")
    return code
