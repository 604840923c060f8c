"""A hospital's images: read, checked, grouped by patient or lesion."""

from client.data.folder import find_patient_column, load_table
from client.data.image_files import IMAGE_SUFFIXES
from client.data.images import check_decodable, decode_image, load_pixels
from client.data.table import ImageRecord, ImageTable, OnUndecodable, PrivacyUnit, held_out

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageRecord",
    "ImageTable",
    "OnUndecodable",
    "PrivacyUnit",
    "check_decodable",
    "decode_image",
    "find_patient_column",
    "held_out",
    "load_pixels",
    "load_table",
]
