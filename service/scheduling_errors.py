"""What ends the work of the scheduler, or has it wait."""


class SchedulerClosed(RuntimeError):
    """Nothing is run any more: the scheduler was closed, or a run ended it. The message is for clients."""


class WorkerLost(RuntimeError):
    """Raised by a run: no batch will ever run again, in this process. The message is for clients."""
