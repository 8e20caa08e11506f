"""What a trial asks of splats: peers to hold them against, and a scene."""
