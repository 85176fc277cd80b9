"""What a program that PyInstaller makes takes along of edge-ser: the model files, the C library, what is imported on use.

The libraries of soundfile, soxr and onnxruntime come with PyInstaller's own hooks for them.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata, logger

from edge_ser.engines.clib import library_path

datas = collect_data_files("edge_ser", includes=["model/files/*"]) + copy_metadata("edge-ser")
hiddenimports = collect_submodules("edge_ser.commands") + collect_submodules("edge_ser.engines")
_library = library_path()
binaries = [(str(_library), "edge_ser")] if _library else []
excludedimports = ["pyarrow", "ray"]  # for whole archives, and ten times as large as all the rest
logger.info("edge-ser: pyarrow and ray are left out, and with them the verb label")
if _library is None:
    logger.warning("edge-ser: the C library is not installed here, so the program has none and answers with ONNX Runtime alone")
