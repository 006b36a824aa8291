# The part of Zephyr's CMake that modules of packages use: the application `app`, the modules of EXTRA_ZEPHYR_MODULES with
# the CMakeLists.txt that their module.yml names, and options of prj.conf.
file(STRINGS "${CMAKE_CURRENT_SOURCE_DIR}/prj.conf" options REGEX "^CONFIG_")
foreach(option IN LISTS options)
    string(REGEX MATCH "^(CONFIG_[A-Z0-9_]+)=(.*)$" matched "${option}")
    set(${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
endforeach()

project(Zephyr-Kernel LANGUAGES C)
add_library(zephyr_interface INTERFACE)
target_compile_options(zephyr_interface INTERFACE -Wall -Wextra -Werror)

macro(zephyr_library_named name)
    set(ZEPHYR_CURRENT_LIBRARY ${name})
    add_library(${name} STATIC "")
    target_link_libraries(${name} PUBLIC zephyr_interface)
    set_property(GLOBAL APPEND PROPERTY libraries ${name})
endmacro()

macro(zephyr_library_sources)
    target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endmacro()

macro(zephyr_library_compile_options)
    target_compile_options(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endmacro()

macro(zephyr_include_directories)
    target_include_directories(zephyr_interface INTERFACE ${ARGN})
endmacro()

macro(zephyr_compile_definitions)
    target_compile_definitions(zephyr_interface INTERFACE ${ARGN})
endmacro()

add_executable(app "$ENV{ZEPHYR_BASE}/../board.c")
target_link_libraries(app PRIVATE zephyr_interface)
foreach(folder IN LISTS EXTRA_ZEPHYR_MODULES)
    file(STRINGS "${folder}/zephyr/module.yml" line REGEX "^  cmake: ")
    string(REPLACE "  cmake: " "" place "${line}")
    set(ZEPHYR_CURRENT_LIBRARY "")
    add_subdirectory("${folder}/${place}" "${CMAKE_BINARY_DIR}/modules")
    get_property(libraries GLOBAL PROPERTY libraries)
    target_link_libraries(app PRIVATE ${libraries})
endforeach()
