"""What Feast finds in this folder: entities, feature views and services, made from the definitions beside this file.

Nothing to edit: `feast apply` registers what shop.py and cards.py define.
"""

from pathlib import Path

if not __package__:  # only Feast imports this file by its bare name; those who load definitions need no Feast
    from headrace.feast import feast_objects

    globals().update(feast_objects(Path(__file__).parent))
