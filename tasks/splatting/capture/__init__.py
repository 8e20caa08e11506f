"""From a video, a folder or another tool's files to the images of a scene. No poses."""
