"""How a rank learns from torch's backends that another rank is gone."""

import re

# What gloo and nccl say.
LOST_PEER = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|ncclRemoteError|remote process exited"
)
