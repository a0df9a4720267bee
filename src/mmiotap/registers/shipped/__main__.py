"""Write what the compiler makes of each description beside it."""

import json

from mmiotap.registers.load import Wanted, load
from mmiotap.registers.shipped import SHIPPED

for one in SHIPPED:
    one.path.with_suffix(".json").write_text(json.dumps(load(Wanted(one.path)).to_json()) + "\n")
