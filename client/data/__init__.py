"""A hospital's data: read, checked, grouped by what is protected."""

from client.data.class_folders import load_table
from client.data.decode import decode_image
from client.data.image_files import IMAGE_SUFFIXES
from client.data.images import check_decodable, load_pixels
from client.data.table import ImageRecord, ImageTable, OnUndecodable, PrivacyUnit, held_out

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageRecord",
    "ImageTable",
    "OnUndecodable",
    "PrivacyUnit",
    "check_decodable",
    "decode_image",
    "held_out",
    "load_pixels",
    "load_table",
]
