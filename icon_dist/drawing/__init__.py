"""Pictures without libraries that draw: charts as SVG, skeletons on images, and the frame of every web page."""
