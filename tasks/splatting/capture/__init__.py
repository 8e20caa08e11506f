"""Takes the images of a scene from a video, a folder or another tool's files; knows no poses."""
