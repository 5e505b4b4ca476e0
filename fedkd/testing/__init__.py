"""What a method from outside is tested with: `check_local_trainer(MyTrainer)` in a test of your own.

Needs no test framework; the same checks run over every method in the table.
"""

from fedkd.testing.checks import CHECKS, check_local_trainer
from fedkd.testing.toys import TOYS, Toy

__all__ = ["CHECKS", "TOYS", "Toy", "check_local_trainer"]
