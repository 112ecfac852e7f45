"""A supervisor without Ray: `python gateways_alone.py`, with the settings of its environment.

Gateways and the control process are the real ones; whoever starts this answers on lanes of his own.
"""

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.logs import log_to
from citybrain.platform.supervisor import Supervisor
from citybrain.platform.wiring import open_truths


class Alone(Supervisor):
    """Plans no Ray head."""

    def plan(self):
        return [child for child in super().plan() if child.name != "ray"]


if __name__ == "__main__":
    settings = Settings()
    home = Home(settings.home).make()
    log_to(home.logs / "supervisor.log")
    open_truths(settings)
    Alone(settings, home).run()
