import os
from pathlib import Path

import pytest
from hypothesis import settings
from made_up_faces import Faces

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


@pytest.fixture
def faces(tmp_path) -> Faces:
    return Faces(tmp_path).write()


@pytest.fixture
def real_faces() -> Path:
    folder = Path(os.environ.get("FACEJAX_REAL_FACES", "../shared/data"))
    if not folder.is_dir():
        pytest.skip("no real faces: set FACEJAX_REAL_FACES to their folder")
    return folder
