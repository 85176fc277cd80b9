"""edge-ser tells a device how a person sounds.

>>> from edge_ser import EmotionRecognizer
>>> recognizer = EmotionRecognizer()
>>> recognizer.labels
('neutral', 'angry', 'happy', 'sad')
"""

import os

# ONNX Runtime from 1.29 on reports to its makers unless this is set before its first import, by whomever in the process.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from edge_ser._version import __version__
from edge_ser.errors import AudioError, AudioWarning, BackendError, ConfigError, EdgeSerError, ModelFileError
from edge_ser.personal.microphone import SpeechStatistics
from edge_ser.personal.profile import Profile
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.stream import Stream

__all__ = [
    "AudioError",
    "AudioWarning",
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
