"""edge-ser tells a device how a person sounds.

>>> from edge_ser import EmotionRecognizer
>>> recognizer = EmotionRecognizer()
>>> recognizer.labels
('neutral', 'angry', 'happy', 'sad')
"""

from edge_ser.calibration import SpeechStatistics
from edge_ser.decision import Prediction
from edge_ser.errors import (
    AudioError,
    BackendError,
    ConfigError,
    EdgeSerError,
    ModelFileError,
)
from edge_ser.profile import Profile
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.streaming import Stream

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BackendError",
    "ConfigError",
    "EdgeSerError",
    "EmotionRecognizer",
    "ModelFileError",
    "Prediction",
    "Profile",
    "SpeechStatistics",
    "Stream",
    "__version__",
]
