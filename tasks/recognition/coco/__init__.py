"""Reads and writes images with boxes: COCO JSON, and the text files that YOLO tools write."""
